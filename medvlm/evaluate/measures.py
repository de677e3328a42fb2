"""The measures of an evaluation: those of the tasks that were asked, and those of the rewards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from medvlm.core.measure import AtPoints, Measure, OfCorpus, OfJudge, average
from medvlm.core.sample import Truth
from medvlm.core.tasks import find_task, list_tasks
from medvlm.rewards._compose import Composer

VERSION = 3
"""Increased whenever the meaning of a number changes; saved with the answers."""
REWARD = "reward"
"""The group of the measures of rewards."""


def list_measures(tasks: Iterable[str], rewards: Mapping[str, Any] | None) -> list[Measure]:
    """All measures; each can be asked whether it is about a truth of any task. tasks: those of the truths. rewards: of
    a composer, whose total and parts are measured too."""
    return [*join_measures(tasks), *(_measure_rewards(Composer(rewards)) if rewards else [])]


def join_measures(tasks: Iterable[str]) -> list[Measure]:
    """The measures of several tasks. Measures with the same name, such as `accuracy` of choices and of open answers,
    are joined.

    Raises DataError for an unknown task.
    """
    found: dict[tuple[str, str], dict[str, Measure]] = {}
    for kind in _sort_tasks(tasks):
        for measure in find_task(kind).MEASURES:
            found.setdefault((measure.group, measure.metric), {})[kind] = measure
    return [_join(by_task) for by_task in found.values()]


def _join(by_task: Mapping[str, Measure]) -> Measure:
    def is_about(template: str, truth: Truth) -> bool:
        return truth.task in by_task and by_task[truth.task].is_about(template, truth)

    def add_columns(answer: Any, truth: Truth) -> Any:
        columns = by_task[truth.task].columns
        assert not isinstance(columns, OfCorpus | AtPoints | OfJudge), f"tasks {', '.join(by_task)} share {columns}"
        return columns(answer, truth)

    if len(by_task) == 1:
        return replace(*by_task.values(), is_about=is_about)
    own = {measure.columns for measure in by_task.values()}
    columns = own.pop() if len(own) == 1 else add_columns  # of a judge, who judges all tasks alike
    joined = {replace(measure, is_about=is_about, columns=columns) for measure in by_task.values()}
    assert len(joined) == 1, f"tasks {', '.join(by_task)} mean different things by one measure: {joined}"
    return joined.pop()


def _sort_tasks(tasks: Iterable[str]) -> list[str]:
    """Tasks of medvlm in their fixed order, then the others."""
    own, asked = list_tasks(), set(tasks)
    return [*(kind for kind in own if kind in asked), *sorted(asked - set(own))]


def _measure_rewards(composer: Composer) -> list[Measure]:
    scored = cache(composer.score)  # the total and each part ask about the same answers

    def applies(template: str, truth: Truth) -> bool:
        return composer.applies(truth)

    def measure_part(name: str) -> Measure:
        return Measure(
            name,
            REWARD,
            average(lambda answer, truth: scored(answer, truth)[1][name]),
            lambda template, truth: composer.judges(name, truth),
        )

    total = Measure("total", REWARD, average(lambda answer, truth: scored(answer, truth)[0]), applies, headline=True)
    return [total, *map(measure_part, composer.weights)]
