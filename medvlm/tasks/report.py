"""Free long text. It is trained and may be read, but nothing here scores it, so it is not asked in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.sample import Medium
from medvlm.tasks._made_up import draw_answer, make_question

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Truth(sample.Truth):
    pass


class Config(Base):
    kind: Literal["report"]


FREE_TEXT = True


def from_text(text: str, config: Config) -> Truth:
    return Truth(text)


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth]:
    question = make_question(rng, "report")
    draw_answer(rng)
    return question, Truth(report)


EXAMPLES: list[tuple[Any, sample.Truth, float]] = []
