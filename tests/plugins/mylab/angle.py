"""A task: how many degrees a line is tilted, as a number in the answer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from medvlm.core import config, sample
from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.measure import Measure, average
from medvlm.core.sample import Medium
from medvlm.core.tasks import Drawing
from mylab.circular import MEDIAN, difference

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Truth(sample.Truth):
    """degrees: against the clock from the horizontal, from 0 to 179, on the stored film. Films are square, so no resize
    changes it."""

    degrees: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.degrees < 180:
            raise DataError(f"an angle of a line is from 0 to 179 degrees, found {self.degrees}")
        if not self.answer:
            object.__setattr__(self, "answer", str(self.degrees))


class Config(config.Config):
    """What a data card says beside the kind: nothing."""

    kind: Literal["mylab.angle"]


FOLLOWS_CROPS = True


def from_text(text: str, config: Config) -> Truth | None:
    return Truth(degrees=int(text)) if text.isdecimal() and int(text) < 180 else None


def write(truth: Truth) -> str:
    return str(truth.degrees)


def parse(text: str, truth: Truth | None = None) -> float | None:
    """The only number in the text; None where there is none, or several."""
    found = re.findall(r"\d+(?:\.\d+)?", text)
    return float(found[0]) if len(found) == 1 else None


def is_formatted(answer: str, truth: Truth) -> bool:
    return answer.isdecimal() and int(answer) < 180


def follow(truth: Truth, canvas: Canvas) -> Truth:
    """A flip or a quarter turn of the film turns the line."""
    along, up = math.cos(math.radians(truth.degrees)), math.sin(math.radians(truth.degrees))
    if canvas.swapped:
        along, up = -up, -along  # rows count downwards, so that a swap mirrors at the falling diagonal
    (down, right) = canvas.scale[-2:]
    degrees = round(math.degrees(math.atan2(up * down, along * right))) % 180
    return replace(truth, degrees=degrees, answer=str(degrees))


def miss(answer: str, truth: Truth) -> float:
    """Degrees between answer and truth; 90, the most there can be, for what cannot be read."""
    degrees = parse(answer)
    return 90.0 if degrees is None else difference(degrees, truth.degrees)


def score(answer: str, truth: Truth) -> float:
    return 1 - miss(answer, truth) / 90


MEASURES = (
    Measure("mean_score", "angle", average(score), headline=True),
    Measure(
        "median_error",
        "angle",
        lambda answer, truth: (miss(answer, truth),),
        better="lower",
        statistic=MEDIAN,
        bounds=(0.0, 90.0),
    ),
)


def best_constant(truths: Sequence[Truth], measure: Measure | None) -> str:
    """The angle of the training data that is nearest to all of them."""
    angles = [truth.degrees for truth in truths]
    return str(min(sorted(set(angles)), key=lambda one: sum(difference(one, other) for other in angles)))


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth] | None:
    return "How many degrees is it tilted?", Truth(degrees=int(rng.integers(180)))


def describe(answer: Any, truth: Truth) -> Drawing:
    return Drawing(f"{truth.degrees} degrees", aside="" if answer is None else f"off by {miss(answer, truth):.0f}")


_STEEP = Truth(degrees=75)
EXAMPLES = [
    ("75", _STEEP, 1.0),
    ("about 75 degrees", _STEEP, 1.0),
    ("165", _STEEP, 0.0),
    ("30", _STEEP, 0.5),
    ("175", Truth(degrees=5), 1 - 10 / 90),
    # Naming several, or none, is no answer.
    ("75 or 165", _STEEP, 0.0),
    ("steep", _STEEP, 0.0),
]
