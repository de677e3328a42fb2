"""What is measured: for each metric the questions it is about, what an answer adds to it, and which way is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from medvlm.core.sample import Truth
from medvlm.metrics import accuracy, boxes, count
from medvlm.metrics.bootstrap import Statistic, mean
from medvlm.rewards._compose import Composer

VERSION = 1
"""Goes up whenever a number would change its meaning; saved with the answers."""

CLOSED = "closed:"
"""Templates that start so hold the questions that their archive calls closed (VQA-RAD: answer_type CLOSED), whatever
their answers."""

Columns = Callable[[str, Truth], tuple[float, ...]]
"""What one answer adds; sums over questions go into the statistic."""


@dataclass(frozen=True)
class Measure:
    """better: None where a row only informs (no paired difference). by_template: a row of each template as well."""

    task: str
    metric: str
    is_about: Callable[[str, Truth], bool]
    """(template, truth) -> whether the question counts."""
    columns: Columns
    better: Literal["higher", "lower"] | None = "higher"
    by_template: bool = False
    statistic: Statistic = mean


def measures(rewards: Mapping[str, float] | None) -> list[Measure]:
    """rewards: weights of a composer, whose total and parts are measured too."""
    return [*MEASURES, *(_rewards(Composer(rewards)) if rewards else [])]


def each(score: Callable[[str, Truth], float]) -> Columns:
    """Columns of the mean of a score."""
    return lambda answer, truth: (float(score(answer, truth)), 1.0)


def is_short(template: str, truth: Truth) -> bool:
    return truth.task in ("choice", "open")


def is_closed(template: str, truth: Truth) -> bool:
    return truth.task == "choice" or (truth.task == "open" and template.startswith(CLOSED))


def is_open(template: str, truth: Truth) -> bool:
    return truth.task == "open" and not template.startswith(CLOSED)


def is_count(template: str, truth: Truth) -> bool:
    return truth.task == "count"


def is_boxes(template: str, truth: Truth) -> bool:
    return truth.task == "boxes"


MEASURES = [
    Measure("vqa", "accuracy", is_short, each(accuracy.correct), by_template=True),
    Measure("vqa", "accuracy_closed", is_closed, each(accuracy.correct)),
    Measure("vqa", "accuracy_open", is_open, each(accuracy.correct)),
    Measure("vqa", "f1_open", is_open, each(accuracy.f1)),
    Measure("count", "mae", is_count, each(count.error), better="lower", by_template=True),
    Measure("count", "correlation", is_count, count.moments, by_template=True, statistic=count.correlation),
    Measure("count", "exact", is_count, each(count.exact), by_template=True),
    Measure("count", "unreadable", is_count, each(count.unreadable), better=None),
    Measure("boxes", "mean_iou", is_boxes, each(boxes.mean_iou), by_template=True),
    Measure("boxes", "hit_rate", is_boxes, each(boxes.hit_rate), by_template=True),
    Measure("boxes", "unreadable", is_boxes, each(boxes.unreadable), better=None),
]


def _rewards(composer: Composer) -> list[Measure]:
    scored = cache(composer.score)  # the total and each part ask about the same answers

    def judged(template: str, truth: Truth) -> bool:
        return composer.applies(truth)

    def part(name: str) -> Measure:
        return Measure(
            "reward",
            name,
            lambda template, truth: composer.judges(name, truth),
            each(lambda answer, truth: scored(answer, truth)[1][name]),
        )

    return [
        Measure("reward", "total", judged, each(lambda answer, truth: scored(answer, truth)[0])),
        *map(part, composer.weights),
    ]
