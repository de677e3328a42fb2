"""How long something is, in millimetres, or which angle two lines have, in degrees.

The card gives the numbers, or points in stored pixels: two of them make a length, three an angle at the second one, and
four the angle between two lines (from the first point to the second, and from the third to the fourth). Points become
numbers when a sample is stored, by the spacing of its first image, so a resize does not change the answer. `{pixel_mm}`
in a question is how large a pixel is of what the model sees.

Source: MedVision (github.com/YongchengYAO/MedVision): answers in millimetres and degrees, mean absolute and relative
errors, and success rates. Deviations: the reward falls in a straight line, where that of MedVision is exp(-error) and
so pays for any number; small numbers are compared with 1 mm or 1 degree.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.measure import Measure, average
from medvlm.core.sample import Medium
from medvlm.tasks._made_up import draw_answer, make_question
from medvlm.tasks._measurements import DEGREES, MM, read_measurements

if TYPE_CHECKING:
    import numpy as np

Point = tuple[float, float]
UNITS = {"length": MM, "angle": DEGREES}
LEAST = 1.0
"""Errors are relative to the true number, but at least to this many millimetres or degrees."""
CANDIDATES = 200
"""Constant answers that are tried."""


@dataclass(frozen=True)
class Truth(sample.Truth):
    """values: in mm (`of` length) or degrees (`of` angle), in the order in which they are asked for. points: (x, y) in
    stored pixels, until the sample is stored. label: of what. tolerance: the largest relative error of a success."""

    values: tuple[float, ...] = ()
    of: str = "length"
    label: str = ""
    points: tuple[Point, ...] = ()
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        if self.of not in UNITS or (not self.values and not self.points):
            raise DataError(f"expected numbers or points of {' or '.join(UNITS)}, found {self.of!r} without any")
        if any(not math.isfinite(value) or value < 0 for value in self.values):
            raise DataError(f"{self.label or self.of}: expected finite numbers of at least 0, found {self.values}")
        if not self.answer and self.values:
            object.__setattr__(self, "answer", _write(self.values, UNITS[self.of]))


class Config(Base):
    kind: Literal["measure"]
    of: Literal["length", "angle"] = "length"
    """`length`: in millimetres. `angle`: in degrees, 0 to 180."""
    label: str = ""
    """What is measured."""
    tolerance: float = Field(0.1, gt=0)
    """The largest relative error of a success."""


TITLE = "Measurements"


# --- text -------------------------------------------------------------------------------------------


def _write(values: Sequence[float], unit: str) -> str:
    return f"{' x '.join(f'{value:.{_count_decimals(value)}f}' for value in values)} {unit}"


def _round(values: Sequence[float]) -> tuple[float, ...]:
    """As they are written, so that the right answer is exactly right."""
    return tuple(round(value, _count_decimals(value)) for value in values)


def _count_decimals(value: float) -> int:
    return 1 if value >= 10 else 2


def parse(text: str, truth: Truth) -> tuple[float, ...] | None:
    """As many numbers as are asked for, in mm or degrees; see `_measurements.read_measurements`."""
    return read_measurements(text, UNITS[truth.of], len(truth.values))


def is_formatted(answer: str, truth: Truth) -> bool:
    """`12.3 mm`, `12.3 x 4.5 mm`, `45.0 degrees`."""
    number = r"(?:0|[1-9][0-9]{0,5})(?:\.[0-9]{1,3})?"
    return re.fullmatch(rf"{number}(?: x {number}){{{len(truth.values) - 1}}} {UNITS[truth.of]}", answer) is not None


_POINT = re.compile(r"\[\s*(-?[0-9.]+)\s*,\s*(-?[0-9.]+)\s*\]")


def from_text(text: str, config: Config) -> Truth | None:
    """`12.3 mm`, `1.2 x 0.8 cm`, or `[x, y], [x, y], ...` in stored pixels; None for any other text."""
    own: dict[str, Any] = {"of": config.of, "label": config.label, "tolerance": config.tolerance}
    if "[" in text:
        found = tuple((float(x), float(y)) for x, y in _POINT.findall(text))
        is_whole = not _POINT.sub("", text).strip(" ,\n[]") and _can_measure(len(found), config.of)
        return Truth(points=found, **own) if is_whole else None
    for count in range(1, 4):
        if values := read_measurements(text, UNITS[config.of], count):
            return Truth(values=_round(values), **own)
    return None


def _can_measure(points: int, of: str) -> bool:
    return points in (3, 4) if of == "angle" else points > 0 and points % 2 == 0


# --- geometry ---------------------------------------------------------------------------------------


def settle(truth: Truth, media: Sequence[Medium]) -> Truth:
    """The numbers that the points say, by the spacing of the first medium."""
    if not truth.points:
        return truth
    if not _can_measure(len(truth.points), truth.of):
        raise DataError(f"{len(truth.points)} points of a {truth.of}; expected two for a length, three or four else")
    if not media or len(media[0].size) != 2 or media[0].spacing_mm is None:
        raise DataError(
            f"its {truth.of} is given by points, but its image has no spacing in mm; give the card one, or the"
            f" {truth.of} in {UNITS[truth.of]}"
        )
    (height, width), (row_mm, column_mm) = media[0].size, media[0].spacing_mm
    if any(not (0 <= x <= width and 0 <= y <= height) for x, y in truth.points):
        raise DataError(f"a point lies beyond the image of {width} x {height} pixels")
    points = [(x * column_mm, y * row_mm) for x, y in truth.points]
    values = (_find_angle(points),) if truth.of == "angle" else _find_lengths(points)
    return replace(truth, answer="", points=(), values=_round(values))


def follow(truth: Truth, canvas: Canvas) -> Truth:
    """The same after a flip or turn. It is a function of its own because a zoom or bend, after which the spacing stays,
    would change lengths: such samples are neither zoomed nor bent."""
    return truth


def _find_lengths(points: Sequence[Point]) -> tuple[float, ...]:
    return tuple(math.dist(*pair) for pair in list(pairwise(points))[::2])


def _find_angle(points: Sequence[Point]) -> float:
    a, b, c, d = points if len(points) == 4 else (points[1], points[0], points[1], points[2])
    (ax, ay), (bx, by) = (b[0] - a[0], b[1] - a[1]), (d[0] - c[0], d[1] - c[1])
    if not (ax or ay) or not (bx or by):
        raise DataError("a line of an angle begins and ends at the same point")
    return math.degrees(abs(math.atan2(ax * by - ay * bx, ax * bx + ay * by)))


# --- score and measures -----------------------------------------------------------------------------


def score(answer: str, truth: Truth) -> float:
    """1 for the right numbers, falling in a straight line to 0 where one is off by the whole of it; their mean."""
    return _score(parse(answer, truth), truth)


def _score(found: Sequence[float] | None, truth: Truth) -> float:
    return 0.0 if found is None else fmean(max(0.0, 1 - each) for each in _list_relative(found, truth))


def _list_relative(found: Sequence[float], truth: Truth) -> list[float]:
    return [abs(own - true) / max(LEAST, true) for own, true in zip(found, truth.values, strict=True)]


def relative_error(answer: str, truth: Truth) -> float:
    """|found - true| / true, at most 1: what cannot be read is off by the whole of it."""
    return 1 - score(answer, truth)


def is_success(answer: str, truth: Truth) -> float:
    """Whether all numbers are within the tolerance."""
    return _is_success(parse(answer, truth), truth)


def _is_success(found: Sequence[float] | None, truth: Truth) -> float:
    return float(found is not None and max(_list_relative(found, truth)) <= truth.tolerance + 1e-9)


def _list_error(answer: str, truth: Truth) -> dict[str, tuple[float, ...]]:
    """By unit, so that millimetres and degrees have no common mean. What cannot be read is off by the whole of it."""
    found = parse(answer, truth) or (0.0,) * len(truth.values)
    error = fmean(abs(own - true) for own, true in zip(found, truth.values, strict=True))
    return {UNITS[truth.of]: (error, 1.0)}


def is_unreadable(answer: str, truth: Truth) -> float:
    return float(parse(answer, truth) is None)


SUCCESS = "success"
MEASURES = (
    Measure(
        "mae", "measure", _list_error, better="lower", by_template=True, by_class=True, headline=True,
        words="mean absolute error", bounds=None,
    ),
    Measure(
        "mre", "measure", average(relative_error), better="lower", by_template=True, headline=True,
        words="mean relative error",
    ),
    Measure(SUCCESS, "measure", average(is_success), by_template=True, headline=True, words="within the tolerance"),
    Measure("unreadable", "measure", average(is_unreadable), better=None),
)  # fmt: skip


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """Of the answers in `truths` and the medians of their numbers, the one that is best for the measure; all of the
    commonest kind, such as one length each."""
    (of, count), _ = Counter((truth.of, len(truth.values)) for truth in truths).most_common(1)[0]
    alike = [truth for truth in truths if (truth.of, len(truth.values)) == (of, count)]
    medians = tuple(median(column) for column in zip(*(truth.values for truth in alike), strict=True))
    tried = {medians: None, **{truth.values: None for truth in alike[:: max(1, len(alike) // CANDIDATES)]}}
    judge = _is_success if measure is not None and measure.metric == SUCCESS else _score
    best = max(tried, key=lambda values: sum(judge(values, truth) for truth in alike))
    return _write(best, UNITS[of])


# --- rehearsal --------------------------------------------------------------------------------------


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth]:
    question = make_question(rng, "measure")
    number, _ = draw_answer(rng)
    return question, Truth(values=(10 + 7.5 * number,), label="nodule")


_ONE = Truth(values=(40.0,), label="nodule")
_TWO = Truth(values=(40.0, 20.0), label="nodule")
_ANGLE = Truth(values=(30.0,), of="angle")

EXAMPLES = [
    ("40.0 mm", _ONE, 1.0),
    ("The nodule measures about 4 cm.", _ONE, 1.0),
    ("40", _ONE, 1.0),
    ("30 mm", _ONE, 0.75),
    ("50 mm", _ONE, 0.75),
    ("100 mm", _ONE, 0.0),
    ("40 cm", _ONE, 0.0),
    ("40 x 20 mm", _TWO, 1.0),
    ("4.0 cm by 2.0 cm", _TWO, 1.0),
    ("20 x 40 mm", _TWO, 0.25),
    ("30°", _ANGLE, 1.0),
    ("30 degrees", _ANGLE, 1.0),
    ("24 degrees", _ANGLE, 0.8),
    # Several numbers, a range, a bound, another unit, and none are no answer.
    ("30 mm, 40 mm, 50 mm", _ONE, 0.0),
    ("30 or 40 mm", _ONE, 0.0),
    ("35-45 mm", _ONE, 0.0),
    ("40 ± 10 mm", _ONE, 0.0),
    ("more than 39 mm", _ONE, 0.0),
    ("not 40 mm", _ONE, 0.0),
    ("-40 mm", _ONE, 0.0),
    ("40 mm", _ANGLE, 0.0),
    ("30 mm", _ANGLE, 0.0),
    ("40 mm", _TWO, 0.0),
    ("40 " * 300, _ONE, 0.0),
    ("large", _ONE, 0.0),
    ("", _ONE, 0.0),
]
