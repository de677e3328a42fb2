"""How many there are: digits, number words, or words that there is none.

An answer that names no number, or several, is not left out: its error is max(1, the true number), where the
score is 0 as well; for the correlation it is a 0. How many there were is a metric of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median_low, multimode
from typing import TYPE_CHECKING, Any, Literal

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.measure import Measure, average
from medvlm.core.sample import Box, Medium
from medvlm.core.tasks import Drawing
from medvlm.tasks._boxes import check_boxes, follow_boxes, is_sized, make_box, mark
from medvlm.tasks._counts import read_count
from medvlm.tasks._made_up import draw_answer, make_question
from medvlm.tasks._writing import Writing

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Truth(sample.Truth):
    """`count` objects called `label`. boxes: of what is counted, on medium 0 in stored pixels, so that the count can
    follow a crop; none where they are not known."""

    count: int = 0
    boxes: tuple[Box, ...] = ()
    label: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.count, int):
            raise DataError(f"a count is a whole number, found {self.count!r}")
        if not self.answer:
            object.__setattr__(self, "answer", str(self.count))


class Config(Base):
    kind: Literal["count"]
    label: str = ""
    """What is counted."""


FOLLOWS_CROPS = FOLLOWS_WARPS = True
TITLE = "Counts"

# --- text -------------------------------------------------------------------------------------------


def write(truth: Truth) -> str:
    return str(truth.count)


def parse(text: str, truth: Truth | None = None) -> int | None:
    """See `_counts.read_count`."""
    return read_count(text)


def is_formatted(answer: str, truth: Truth) -> bool:
    """Digits alone."""
    return re.fullmatch(r"0|[1-9][0-9]{0,8}", answer) is not None


def from_text(text: str, config: Config) -> Truth | None:
    """None for a text that is not a whole number. 3.0, as spreadsheets write it, is one."""
    digits = re.sub(r"\.0+$", "", text)
    return Truth(digits, int(digits), label=config.label) if digits.isdecimal() else None


# --- geometry ---------------------------------------------------------------------------------------


def check(truth: Truth, media: Sequence[Medium]) -> None:
    check_boxes(truth.boxes, media)


def has_coordinates(truth: Truth) -> bool:
    return bool(truth.boxes)


def place(truth: Truth, canvas: Canvas | None, writing: Writing) -> Truth:
    """A preprocessing that crops may leave boxes behind: then the count is that of the others."""
    if canvas is None or not truth.boxes:
        return truth
    kept = writing.place_all(canvas, truth.boxes)
    if len(kept) < len(truth.boxes):
        return Truth(count=len(kept), boxes=kept, label=truth.label)
    return replace(truth, boxes=kept)


def check_crop(truth: Truth) -> None:
    if len(truth.boxes) != truth.count:
        raise DataError(
            f"counts {truth.count} but has {len(truth.boxes)} boxes, so a part of the image cannot be counted again;"
            " give the counts of this data set their boxes"
        )


def follow(truth: Truth, canvas: Canvas) -> Truth:
    boxes = follow_boxes(truth.boxes, canvas)
    if len(truth.boxes) == truth.count != len(boxes):
        return Truth(count=len(boxes), boxes=boxes, label=truth.label)
    return replace(truth, boxes=boxes)


# --- score and measures -----------------------------------------------------------------------------


def score(answer: str, truth: Truth) -> float:
    """1 for the right number, falling in a straight line to 0 where it is off by the whole of it.

    max(0, 1 - |found - n| / max(1, n)): a line, and not a bell such as exp(-|found - n|), because the expected
    reward is then largest at a median of what the model believes, as it is for the mean absolute error that the
    evaluation reports. A bell rewards the likeliest single number and is flat where a model that is far off starts.
    """
    found = parse(answer)
    return 0.0 if found is None else max(0.0, 1 - abs(found - truth.count) / max(1, truth.count))


def error(answer: str, truth: Truth) -> float:
    """|found - true|."""
    found = parse(answer)
    return float(max(1, truth.count) if found is None else abs(found - truth.count))


def is_exact(answer: str, truth: Truth) -> float:
    return float(parse(answer) == truth.count)


def is_unreadable(answer: str, truth: Truth) -> float:
    return float(parse(answer) is None)


_HALF = 1 << 15
"""Counts have at most nine digits. Products of their halves stay exact in sums over millions of questions."""


def moments(answer: str, truth: Truth) -> tuple[float, ...]:
    """What the correlation of the found x and the true y needs, as sums over questions: 1, the upper and the lower half
    of x and of y, and the products of those halves for xx, yy and xy."""
    x, y = divmod(parse(answer) or 0, _HALF), divmod(truth.count, _HALF)
    products = [*_multiply_halves(x, x), *_multiply_halves(y, y), *_multiply_halves(x, y)]
    return tuple(map(float, (1, *x, *y, *products)))


def _multiply_halves(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int, int]:
    return a[0] * b[0], a[0] * b[1] + a[1] * b[0], a[1] * b[1]


def correlation(totals_RK: np.ndarray) -> np.ndarray:
    """Pearson's r from sums of `moments`, [R, K] -> [R]; 0 where either side is constant: a constant tells nothing
    apart."""
    import numpy as np

    totals_RK = np.asarray(totals_RK, dtype=np.float64)
    n, x, y, xx, yy, xy = _join_halves(totals_RK)
    spread_x, spread_y, shared = n * xx - x * x, n * yy - y * y, n * xy - x * y
    large = n * np.maximum(xx, yy) >= 1 << 53
    if large.any():  # not exact in floating point, where what is left of a constant's spread is rounding
        n, x, y, xx, yy, xy = _join_halves(np.vectorize(int, otypes=[object])(totals_RK[large]))
        exact = n * xx - x * x, n * yy - y * y, n * xy - x * y
        spread_x[large], spread_y[large], shared[large] = (values.astype(np.float64) for values in exact)
    varies = (spread_x > 0) & (spread_y > 0)
    r = shared / np.sqrt(np.where(varies, spread_x * spread_y, 1.0))
    return np.where(varies, np.clip(r, -1, 1), 0.0)


def _join_halves(totals_RK: np.ndarray) -> list[np.ndarray]:
    """Sums of 1, x, y, xx, yy and xy."""
    n, x1, x0, y1, y0, *products = totals_RK.T
    squares = [
        upper * _HALF**2 + mixed * _HALF + lower
        for upper, mixed, lower in (products[0:3], products[3:6], products[6:9])
    ]
    return [n, x1 * _HALF + x0, y1 * _HALF + y0, *squares]


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """For `exact` the commonest count, the smallest of equals; else the (lower) median, which has the smallest mean
    absolute error. (Any constant has a correlation of 0.)"""
    if measure is not None and measure.metric == EXACT:
        return str(min(multimode(truth.count for truth in truths)))
    return str(median_low(truth.count for truth in truths))


EXACT = "exact"
MEASURES = (
    Measure(
        "mae",
        "count",
        average(error),
        better="lower",
        by_template=True,
        headline=True,
        words="mean absolute error",
        bounds=None,
    ),
    Measure(
        "correlation", "count", moments, by_template=True, statistic=correlation, headline=True, bounds=(-1.0, 1.0)
    ),
    Measure(EXACT, "count", average(is_exact), by_template=True),
    Measure("unreadable", "count", average(is_unreadable), better=None),
)


# --- rehearsal and report ---------------------------------------------------------------------------


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth]:
    question = make_question(rng, "count")
    number, _ = draw_answer(rng)
    boxes = tuple(make_box(i, media[0].size) for i in range(number)) if is_sized(media) else ()
    return question, Truth(count=number, boxes=boxes, label="nodule")


def describe(answer: Any, truth: Truth) -> Drawing:
    return Drawing(truth.answer, boxes=mark(truth.boxes, truth.label))


_FOUR = Truth(count=4, label="WBC")
_ZERO = Truth(count=0, label="WBC")

EXAMPLES = [
    ("4", _FOUR, 1.0),
    ("There are four.", _FOUR, 1.0),
    ("3", _FOUR, 0.75),
    ("5", _FOUR, 0.75),
    ("8", _FOUR, 0.0),
    ("100", _FOUR, 0.0),
    ("many", _FOUR, 0.0),
    ("none", _ZERO, 1.0),
    ("1", _ZERO, 0.0),
    # Several numbers, a range, or a number in parts are not an answer.
    ("3 or 4", _FOUR, 0.0),
    ("1 2 3 4 5", _FOUR, 0.0),
    ("3-5", _FOUR, 0.0),
    ("-4", _FOUR, 0.0),
    ("4.5", _FOUR, 0.0),
    ("more than 4", _FOUR, 0.0),
    ("4 4 4 4", _FOUR, 0.0),
]
