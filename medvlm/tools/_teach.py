"""What an expert would ask tools for, from the truths of a sample: dialogues for supervised training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from medvlm.core.config import component
from medvlm.core.errors import DataError
from medvlm.core.experts import OpenExpert
from medvlm.core.geometry import identity, join_canvases
from medvlm.core.sample import Question, Sample
from medvlm.core.tasks import find_task
from medvlm.core.tool_config import Environment, ToolConfig
from medvlm.tasks._writing import Writing
from medvlm.tools._episode import Episode

FINE = Writing(scale=10_000)
"""How an expert writes boxes on the stored image. A model is trained on the same boxes in its own writing."""


def teach(
    sample: Sample, files: Mapping[str, Any], environment: Environment, open_expert: OpenExpert
) -> Iterator[tuple[Sample, dict[str, Any]]]:
    """For each question of a sample by itself: a sample with a dialogue in which tools are called in their order, one
    after the other, and then the question is answered; and its files.

    Tools without `taught_by`, or whose question the sample does not have, are not called; a question without any call
    is left out. Raises DataError for a call that a tool cannot follow, which is a fault of the data."""
    taught = {q.template: q for q in sample.questions if q.turn == 0}
    names = {tool.find_teacher(q.template) for tool in environment.tools for q in sample.questions}
    for number, question in enumerate(sample.questions):
        teachers = [(tool, tool.find_teacher(question.template)) for tool in environment.tools]
        known = [(tool, taught[name]) for tool, name in teachers if name in taught]
        if question.turn == 0 and question.template not in names and known:
            yield _teach(
                replace(sample, key=f"{sample.key}q{number}"), files, question, environment, known, open_expert
            )


def _teach(
    sample: Sample,
    files: Mapping[str, Any],
    question: Question,
    environment: Environment,
    known: list[tuple[ToolConfig, Question]],
    open_expert: OpenExpert,
) -> tuple[Sample, dict[str, Any]]:
    canvas = join_canvases([identity(medium.size) for medium in sample.media])
    episode = Episode(environment, sample, files, question, lambda: canvas, FINE, open_expert)
    for tool, source in known[: environment.turns - 1]:
        call = component("tools", tool.kind).write_call(tool, source.truth)
        task = find_task(call.task)
        said = task.write(task.place(call, canvas, FINE))
        step = episode.hear(said)
        if step is None or step.is_refused:
            why = step.shown.text if step else f"{tool.name}: is not called by {said!r}"
            raise DataError(f"{sample.source}/{sample.key}: an expert's call failed: {why}")
        *before, last = episode.question.before
        episode.question = replace(
            episode.question, before=(*before, replace(last, truth=call, template=f"{last.template}:{tool.name}"))
        )
    turns = (*episode.question.before, replace(episode.question, before=()))
    return replace(episode.sample, questions=turns), dict(episode.files)
