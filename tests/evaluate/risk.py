"""A task of a stranger: how likely something is, as a number from 0 to 1; measured by the order of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, OfItems, average
from medvlm.core.sample import Medium
from medvlm.metrics.rank import auroc


@dataclass(frozen=True)
class Truth(sample.Truth):
    is_ill: bool = False


class Config(Base):
    kind: Literal["tests.evaluate.risk"]


TITLE = "Risks"


def from_text(text: str, config: Config) -> Truth | None:
    return Truth(is_ill=text == "ill") if text in ("ill", "well") else None


def check(truth: Truth, media: Sequence[Medium]) -> None:
    if not media:
        raise DataError("a risk is that of an image")


def score(answer: str, truth: Truth) -> float:
    return 1 - brier(answer, truth)


def brier(answer: str, truth: Truth) -> float:
    return float((float(answer) - truth.is_ill) ** 2)


def rank(answer: str, truth: Truth) -> tuple[float, ...]:
    return float(answer), float(truth.is_ill)


def best_constant(truths: Sequence[Truth], measure: Measure | None) -> str:
    """Any constant is as good as another for the order; for the distance it is the share of the ill."""
    if measure is None or measure.metric == "auroc":
        return "0.5"
    return str(sum(truth.is_ill for truth in truths) / len(truths))


MEASURES = (
    Measure("auroc", "risk", rank, statistic=OfItems(auroc), by_template=True, headline=True, words="AUROC"),
    Measure("brier", "risk", average(brier), better="lower"),
)

EXAMPLES = [("1", Truth(is_ill=True), 1.0), ("0", Truth(is_ill=True), 0.0), ("0.5", Truth(), 0.75)]
