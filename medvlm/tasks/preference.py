"""Which of two answers to a question is the better one. A model is trained on the pair (stage `preference`); a
supervised stage trains on the preferred answer. It is evaluated by the probabilities of both (protocol
`preferences`), so a text alone has no score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium
from medvlm.tasks._made_up import WORDS, make_question

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Truth(sample.Truth):
    """answer: the preferred one. rejected: the other one. Both are texts, without coordinates."""

    rejected: str = ""

    def __post_init__(self) -> None:
        if not self.answer.strip() or not self.rejected.strip():
            raise DataError("a pair has a preferred and a rejected answer, and one of them is empty")
        if self.answer.split() == self.rejected.split():
            raise DataError("the preferred and the rejected answer of a pair are the same")

    @property
    def texts(self) -> tuple[str, ...]:
        return self.answer, self.rejected


class Config(Base):
    kind: Literal["preference"]


FREE_TEXT = True


def summarise(truth: Truth) -> str:
    return f"{truth.answer} (not: {truth.rejected})"


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth]:
    question = make_question(rng, "preference")
    better, worse = (str(word) for word in rng.choice(WORDS, 2, replace=False))
    return question, Truth(better, worse)


EXAMPLES: list[tuple[str, Truth, float]] = []
