"""The `majority` baseline: for each question template the best constant answer, fitted on the training splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from medvlm.core.errors import DataError
from medvlm.core.sample import Question, Truth
from medvlm.evaluate.protocol import Answerer, Ask, Progress, Shards
from medvlm.metrics.majority import best_constant

FIT_SAMPLES = 20_000
"""Training samples that are read, at equal distances: a constant is known long before."""
FIT_BOXES = 400
"""Questions for boxes of a template whose images are looked at: the model's canvas is needed to place boxes."""

T = TypeVar("T")
Kind = tuple[str, str]
"""(template, how it is answered: `short`, `count` or `boxes`)."""


def kind_of(question: Question) -> Kind:
    """A choice and an open answer to one template (`Which plane?`, where most are of a few) share a constant."""
    task = question.truth.task
    return question.template, task if task in ("count", "boxes") else "short"


@dataclass(frozen=True)
class Majority:
    """constants: by (template, kind of answer), and by ("", kind) over all templates, for a template that training does
    not have."""

    constants: dict[Kind, str]

    def answer(self, question: Question) -> str | None:
        """None where training has no question that is answered in this way."""
        template, how = kind_of(question)
        return self.constants.get((template, how), self.constants.get(("", how)))


def fit_majority(
    answerer: Answerer, shards: Shards, training: Sequence[tuple[str, int]], progress: Progress
) -> Majority:
    """training: places of samples. Raises DataError where there are none."""
    if not training:
        raise DataError(
            "the majority baseline is fitted on training data, and there is none; add the training shards, or leave"
            " `majority` out of evaluate.baselines"
        )
    places = _spread(training, FIT_SAMPLES)
    truths: dict[Kind, list[Truth]] = defaultdict(list)
    boxed: dict[Kind, list[tuple[str, int, int]]] = defaultdict(list)
    for done, (split, i) in enumerate(places):
        for number, question in enumerate(shards.read(split, i)[0].questions):
            if question.truth.task == "boxes":
                boxed[kind_of(question)].append((split, i, number))
            elif question.truth.task != "report":
                truths[kind_of(question)].append(question.truth)
        progress("majority", done + 1, len(places))
    for kind, asked in boxed.items():
        truths[kind] = [_seen(answerer, shards, *place) for place in _spread(asked, FIT_BOXES)]
    for (_, how), of_template in list(truths.items()):
        truths["", how] += of_template
    return Majority({kind: best_constant(found) for kind, found in truths.items()})


def _seen(answerer: Answerer, shards: Shards, split: str, i: int, number: int) -> Truth:
    sample, files = shards.read(split, i)
    return answerer.seen(Ask(sample, files, sample.questions[number]))


def _spread(items: Sequence[T], most: int) -> Sequence[T]:
    """At most that many, at equal distances."""
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else items
