"""The `majority` baseline: for each question template the best constant answer, fitted on the training splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from medvlm.core.ask import Ask
from medvlm.core.errors import DataError
from medvlm.core.protocols import Asked, Progress, Shards
from medvlm.core.sample import Question, Truth
from medvlm.core.tasks import find_task

FIT_SAMPLES = 20_000
"""Training samples that are read, at equal distances: a constant is known long before."""
FIT_PLACED = 400
"""Questions of a template whose images are looked at, where answers are written in coordinates of what the model
sees."""

T = TypeVar("T")
Family = tuple[str, str]
"""(template, group of the measures): a choice and an open answer to one template (`Which plane?`, where most are of a
few) share a constant."""
Constants = dict[str, Any]
"""Metric -> the best constant answer for it; "" for the task's first measure, and for those that are not listed."""


def family_of(question: Question) -> Family:
    measures = find_task(question.truth.task).MEASURES
    return question.template, measures[0].group if measures else question.truth.task


@dataclass(frozen=True)
class Majority:
    """constants: by (template, group), and by ("", group) over all templates, for a template that training does not
    have."""

    constants: dict[Family, Constants]

    def answer(self, question: Question) -> Any:
        """None where training has no question that is answered in this way."""
        return self._constants(question).get("")

    def list_others(self, question: Question) -> Constants:
        """Metric -> its own best constant, where that is another answer."""
        return {metric: answer for metric, answer in self._constants(question).items() if metric}

    def _constants(self, question: Question) -> Constants:
        template, group = family_of(question)
        return self.constants.get((template, group)) or self.constants.get(("", group)) or {}


def fit_majority(
    model: Asked,
    shards: Shards,
    training: Sequence[tuple[str, int]],
    progress: Progress,
    is_asked: Callable[[Question], bool],
) -> Majority:
    """training: places of samples. is_asked: whether a question is one that the model answers. Raises DataError where
    there are no samples."""
    if not training:
        raise DataError(
            "the majority baseline is fitted on training data, and there is none; add the training shards, or leave"
            " `majority` out of evaluate.baselines"
        )
    places = _spread(training, FIT_SAMPLES)
    truths: dict[Family, list[Truth]] = defaultdict(list)
    unplaced: dict[Family, list[tuple[str, int, int]]] = defaultdict(list)
    for done, (split, i) in enumerate(places):
        for number, question in enumerate(shards.read(split, i)[0].questions):
            if not is_asked(question):
                continue
            if find_task(question.truth.task).NEEDS_CANVAS:
                unplaced[family_of(question)].append((split, i, number))
            else:
                truths[family_of(question)].append(question.truth)
        progress("majority", done + 1, len(places))
    for family, asked in unplaced.items():
        truths[family] += [_seen(model, shards, *place) for place in _spread(asked, FIT_PLACED)]
    for (_, group), of_template in list(truths.items()):
        truths["", group] += of_template
    return Majority({family: _fit(found) for family, found in truths.items()})


def _fit(truths: Sequence[Truth]) -> Constants:
    """truths: of one group. Its tasks answer in one form, so the first can speak for all."""
    task = find_task(truths[0].task)
    if task.best_constant is None:
        return {}
    constants = {"": task.best_constant(truths, None)}
    for measure in task.MEASURES:
        if (constant := task.best_constant(truths, measure)) != constants[""]:
            constants[measure.metric] = constant
    return constants


def _seen(model: Asked, shards: Shards, split: str, i: int, number: int) -> Truth:
    sample, files = shards.read(split, i)
    return model.place_truth(Ask(sample, files, sample.questions[number]))


def _spread(items: Sequence[T], most: int) -> Sequence[T]:
    """At most that many, at equal distances."""
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else items
