"""A number that an image tells, such as an age in years or an ejection fraction in percent; a decoder gives it.

An answer is a number. Counts of things are another task, `count`, which is answered in text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, OfItems
from medvlm.core.sample import Medium
from medvlm.core.tasks import Drawing
from medvlm.tasks._made_up import make_question

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Truth(sample.Truth):
    """number: of `label`, in `unit`."""

    number: float = 0.0
    label: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.number):
            raise DataError(f"{self.label or 'a number'} is {self.number}; expected a finite number")
        if not self.answer:
            object.__setattr__(self, "answer", f"{self.number:g} {self.unit}".strip())


class Config(Base):
    kind: Literal["quantity"]
    label: str = Field(min_length=1)
    """What is told, e.g. age."""
    unit: str = ""
    """For people, e.g. years."""

    @property
    def classes(self) -> tuple[str, ...]:
        return (self.label,)


ANSWERED_BY = "quantities"
TITLE = "Numbers"
GROUP = "quantity"


def from_text(text: str, config: Config) -> Truth | None:
    """None for a text that is no finite number."""
    try:
        number = float(text)
    except ValueError:
        return None
    return Truth(number=number, label=config.label, unit=config.unit) if math.isfinite(number) else None


def target(truth: Truth, masks: Mapping[str, np.ndarray], classes: Sequence[str], exclusive: bool) -> np.ndarray:
    """float32 [1]."""
    import numpy as np

    if (truth.label,) != tuple(classes):
        raise DataError(f"is about {truth.label}, and the decoder predicts {', '.join(classes)}; set its `classes`")
    return np.array([truth.number], np.float32)


def decode(found: np.ndarray, truth: Truth, classes: Sequence[str], exclusive: bool) -> float:
    return round(float(found[0]), 6)


def parse(answer: Any, truth: Truth) -> float | None:
    """None for anything but a finite number."""
    is_number = isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer)
    return float(answer) if is_number else None


def score(answer: Any, truth: Truth) -> float:
    """1 for the right number, falling in a straight line to 0 where it is off by the whole of it, or by 1 if that is
    more."""
    return max(0.0, 1 - error(answer, truth) / max(1.0, abs(truth.number)))


def error(answer: Any, truth: Truth) -> float:
    """|found - true|. What is no number is off by as much as 0 would be, and by at least 1."""
    found = parse(answer, truth)
    return max(1.0, abs(truth.number)) if found is None else abs(found - truth.number)


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> float:
    """The median, which has the smallest mean absolute error; for the squared error the mean. Any constant has a
    correlation of 0."""
    numbers = [truth.number for truth in truths]
    return float(fmean(numbers) if measure is not None and measure.metric == RMSE else median(numbers))


# One class each, so that the rows of all questions are means over them: their units differ.


def _list_error(answer: Any, truth: Truth) -> dict[str, tuple[float, ...]]:
    return {"": (error(answer, truth), 1.0)}


def _list_square(answer: Any, truth: Truth) -> dict[str, tuple[float, ...]]:
    return {"": (error(answer, truth) ** 2, 1.0)}


def _list_pair(answer: Any, truth: Truth) -> dict[str, tuple[float, ...]]:
    found = parse(answer, truth)
    return {"": (0.0 if found is None else found, truth.number)}


def _root(totals_RK: np.ndarray) -> np.ndarray:
    import numpy as np

    root_R: np.ndarray = np.sqrt(totals_RK[:, 0] / totals_RK[:, 1])
    return root_R


def _correlation(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    from medvlm.metrics.numbers import correlation

    return correlation(items_NK, times_RN)


RMSE = "rmse"
MEASURES = (
    Measure(
        "mae",
        GROUP,
        _list_error,
        better="lower",
        by_template=True,
        by_class=True,
        headline=True,
        words="mean absolute error",
        bounds=None,
    ),
    Measure(
        RMSE,
        GROUP,
        _list_square,
        better="lower",
        by_template=True,
        by_class=True,
        statistic=_root,
        words="root of the mean squared error",
        bounds=None,
    ),
    Measure(
        "correlation",
        GROUP,
        _list_pair,
        by_template=True,
        by_class=True,
        statistic=OfItems(_correlation),
        headline=True,
        bounds=(-1.0, 1.0),
    ),
)


def make_labelled(
    rng: np.random.Generator, media: Sequence[Medium], classes: Sequence[str], exclusive: bool
) -> tuple[str, Truth, dict[str, np.ndarray]] | None:
    return make_question(rng, "quantity"), Truth(number=float(rng.integers(20, 90)), label=classes[0]), {}


def describe(answer: Any, truth: Truth) -> Drawing:
    found = parse(answer, truth)
    return Drawing(truth.answer, answer="" if found is None else f"{found:.4g} {truth.unit}".strip())


_AGE = Truth(number=60.0, label="age", unit="years")
_ZERO = Truth(number=0.0, label="score")

EXAMPLES = [
    (60.0, _AGE, 1.0),
    (60, _AGE, 1.0),
    (45.0, _AGE, 0.75),
    (75.0, _AGE, 0.75),
    (120.0, _AGE, 0.0),
    (0.5, _ZERO, 0.5),
    (math.inf, _AGE, 0.0),
    (math.nan, _AGE, 0.0),
    ("60", _AGE, 0.0),
    (True, _ZERO, 0.0),
    (None, _AGE, 0.0),
]
