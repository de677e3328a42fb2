"""Where things are: a point in each of them, in the coordinates of the image that the model sees.

Found and true points are matched one to one. A pair earns 1 at distance 0, falling in a straight line to 0 at
`within_px` pixels of the stored image; the sum is divided by max(number found, number true), so neither many points nor
few pay. A question with nothing to find counts 1 for `none`, else 0. Where one of several things is to be pointed at
(`any_of`), one point is expected, and the true point that it is nearest to counts.

Source: Point-Detect-Count (github.com/simula/PointDetectCount), whose points are matched one-sidedly: `nearest_px` is
its error, the mean distance of the found points from the nearest true one, which says nothing about true points that
were missed. Deviation: an answer without points is as far off as the image's diagonal, where it is left out there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.measure import Measure, average
from medvlm.core.sample import Box, Medium
from medvlm.core.tasks import Drawing
from medvlm.tasks import _brackets
from medvlm.tasks._boxes import is_sized, mark
from medvlm.tasks._made_up import draw_answer, make_question
from medvlm.tasks._matching import assign
from medvlm.tasks._points import is_written, read_points
from medvlm.tasks._writing import Point, Writing

if TYPE_CHECKING:
    import numpy as np

SLOT = "{points}"
"""Where an answer holds this text, the points are written in the coordinates of what the model sees."""
CANDIDATES, JUDGES = 60, 200
"""Constant answers that are tried, and questions they are tried on."""


@dataclass(frozen=True)
class Truth(sample.Truth):
    """`points` (x, y) in things called `label`, on medium 0, in stored pixels or, once placed, as they are written.
    within_px: in stored pixels. any_of: one of the points is asked, and each is right; the first is written. answer:
    holds SLOT until then. codec, extent, unit_px: once placed, how points are written, what (width, height) of the
    image are in its units, and how many stored pixels a unit is (x, y)."""

    points: tuple[Point, ...] = ()
    label: str = ""
    within_px: float = 10.0
    any_of: bool = False
    codec: str = ""
    extent: tuple[float, ...] = ()
    unit_px: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if any(len(point) != 2 for point in self.points):
            raise DataError("a point has two numbers: x, y")
        if not self.answer:
            object.__setattr__(self, "answer", SLOT)

    def to_json(self) -> dict[str, Any]:
        """Without `any_of` where all are asked, and what only a placed truth has, where it has none."""
        left_out = (*(("codec", "extent", "unit_px") if not self.codec else ()), *(() if self.any_of else ("any_of",)))
        return {name: value for name, value in super().to_json().items() if name not in left_out}

    @property
    def written(self) -> tuple[Point, ...]:
        """The points of the written answer."""
        return self.points[:1] if self.any_of else self.points


class Config(Base):
    kind: Literal["points"]
    label: str = ""
    """What is to be pointed at."""
    within_px: float = Field(10.0, gt=0)
    """Distance in pixels of the stored image at which a point is no longer right; 10, as in Point-Detect-Count."""
    any_of: bool = False
    """Whether one of the points is asked, and each is right. A model is trained to write the first."""


NEEDS_CANVAS = True
FOLLOWS_CROPS = True
TITLE = "Points"


# --- text -------------------------------------------------------------------------------------------


def parse(text: str, truth: Truth | None = None) -> list[Point] | None:
    """The points in the order of the text; [] where it says that there are none, None where it cannot be read."""
    return read_points(text, truth.extent, truth.label) if truth else read_points(text)


def is_formatted(answer: str, truth: Truth) -> bool:
    """As the codec of the recipe writes it, blanks within it aside; before it is placed, as any codec does."""
    return is_written(answer, truth.label, truth.codec, truth.extent)


def from_text(text: str, config: Config) -> Truth | None:
    """`[x, y], ...` in stored pixels, or `none`; None for any other text."""
    found = read_points(text)
    if found is None:
        return None
    points = tuple(found) if config.any_of else _sort(found)
    return Truth(points=points, label=config.label, within_px=config.within_px, any_of=config.any_of)


# --- geometry ---------------------------------------------------------------------------------------


def check(truth: Truth, media: Sequence[Medium]) -> None:
    height, width = media[0].size[-2:] if media else (0, 0)
    if any(not (0 <= x <= width and 0 <= y <= height) for x, y in truth.points):
        raise DataError(f"a point lies beyond the image of {width} x {height} pixels")


def has_coordinates(truth: Truth) -> bool:
    return bool(truth.points)


def place(truth: Truth, canvas: Canvas | None, writing: Writing) -> Truth:
    if canvas is None and SLOT not in truth.answer:
        return truth
    if canvas is None:
        raise DataError(
            "its points lie on stored slices, and the model is shown another plane (model.views) or none; use plane:"
            " stored, or leave `points` out of `tasks`"
        )
    placed = (writing.place_point(canvas, point) for point in truth.points)
    kept = tuple(point for point in placed if point is not None)
    if truth.points and not kept:
        raise DataError("no point lies on what the model sees; use preprocess.fit: squash, or drop the question")
    extent, (height, width), (row, column) = writing.extent(canvas), canvas.size[-2:], canvas.scale[-2:]
    written = replace(truth, points=kept).written
    return replace(
        truth,
        points=kept,
        answer=truth.answer.replace(SLOT, writing.write_points(written, truth.label)),
        codec=writing.codec,
        extent=extent,
        unit_px=(width / extent[0] / abs(column), height / extent[1] / abs(row)),
    )


def follow(truth: Truth, canvas: Canvas) -> Truth | None:
    """Those that stay on the canvas, in its pixels; of `any_of`, in their order."""
    height, width = canvas.size[-2:]
    moved = [canvas.to_canvas((*point, *point))[:2] for point in truth.points]
    kept = [(x, y) for x, y in moved if 0 <= x < width and 0 <= y < height]
    points = tuple(kept) if truth.any_of else _sort(kept)
    return replace(truth, points=points) if kept or not truth.points else None


def _sort(points: Sequence[Point]) -> tuple[Point, ...]:
    """From left to right."""
    return tuple(sorted(points))


# --- score and measures -----------------------------------------------------------------------------


def score(answer: str, truth: Truth) -> float:
    """The mean closeness of matched pairs, see above."""
    gains, expected = _match(answer, truth)
    return min(1.0, sum(gains) / expected)


def hit_rate(answer: str, truth: Truth) -> float:
    """The share of points that are less than `within_px` from their partner."""
    gains, expected = _match(answer, truth)
    return sum(gain > 0 for gain in gains) / expected


@lru_cache(maxsize=1 << 16)
def _match(answer: str, truth: Truth) -> tuple[tuple[float, ...], int]:
    """Closeness of the matched pairs, and how many there should be."""
    found, true = parse(answer, truth), truth.points
    if found is None or not true:
        return (1.0,) if found == [] and not true else (), max(1, len(truth.written))
    gains = [[max(0.0, 1 - _measure_px(a, b, truth) / truth.within_px) for b in true] for a in found]
    return tuple(gains[i][j] for i, j in assign(gains)), max(len(found), len(truth.written))


def _measure_px(a: Point, b: Point, truth: Truth) -> float:
    """The distance in pixels of the stored image."""
    return math.hypot((a[0] - b[0]) * truth.unit_px[0], (a[1] - b[1]) * truth.unit_px[1])


def nearest_px(answer: str, truth: Truth) -> float:
    """The mean distance of the found points from the nearest true one."""
    found = parse(answer, truth)
    if not found or not truth.points:
        return math.hypot(*(side * unit for side, unit in zip(truth.extent, truth.unit_px, strict=True)))
    return fmean(min(_measure_px(point, true, truth) for true in truth.points) for point in found)


def _has_points(template: str, truth: Truth) -> bool:
    return bool(truth.points and truth.extent)


def is_unreadable(answer: str, truth: Truth) -> float:
    return float(parse(answer, truth) is None)


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """Of the answers in `truths`, and their median point where each has one, the one that is best for the measure."""
    candidates = [_write(truth.written) for truth in _spread(truths, CANDIDATES)]
    if all(len(truth.written) == 1 for truth in truths):
        x, y = (median(side) for side in zip(*(truth.points[0] for truth in truths), strict=True))
        candidates.append(_write([(x, y)]))
    judge, sign = {HIT_RATE: (hit_rate, 1), NEAREST: (nearest_px, -1)}.get(
        measure.metric if measure else "", (score, 1)
    )
    judges = [truth for truth in _spread(truths, JUDGES) if sign > 0 or _has_points("", truth)]
    return max(dict.fromkeys(candidates), key=lambda answer: sign * sum(judge(answer, truth) for truth in judges))


def _write(points: Sequence[Point]) -> str:
    is_share = bool(points) and max(map(max, points)) <= 1
    return _brackets.join(points, decimals=3 if is_share else 0) or _brackets.NONE


def _spread(truths: Sequence[Truth], most: int) -> list[Truth]:
    """At most that many, at equal distances."""
    return [truths[i * len(truths) // min(most, len(truths))] for i in range(min(most, len(truths)))]


HIT_RATE, NEAREST = "hit_rate", "nearest_px"
MEASURES = (
    Measure("closeness", "points", average(score), by_template=True, headline=True),
    Measure(HIT_RATE, "points", average(hit_rate), by_template=True, headline=True),
    Measure(
        NEAREST, "points", average(nearest_px), is_about=_has_points, better="lower", by_template=True, bounds=None,
        words="distance to the nearest true point, in pixels",
    ),
    Measure("unreadable", "points", average(is_unreadable), better=None),
)  # fmt: skip


# --- rehearsal and report ---------------------------------------------------------------------------


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth] | None:
    question = make_question(rng, "points")
    if not is_sized(media):
        return None
    number, _ = draw_answer(rng)
    height, width = media[0].size[-2:]
    return question, Truth(points=((width * (0.2 + 0.2 * number), height * 0.45),), label="nodule")


def summarise(truth: Truth) -> str:
    points = f"{len(truth.points)} {'point' if len(truth.points) == 1 else 'points'}"
    return f"one of {points}" if truth.any_of else points


def describe(answer: Any, truth: Truth) -> Drawing:
    """Each point as a box that reaches as far as `within_px`."""
    found = parse(answer, truth) if isinstance(answer, str) else None
    return Drawing(
        truth.answer.replace(SLOT, _brackets.join(truth.written) or _brackets.NONE),
        boxes=mark([_draw(point, truth) for point in truth.points], truth.label),
        found=mark([_draw(point, truth) for point in found or ()], truth.label),
    )


def _draw(point: Point, truth: Truth) -> Box:
    across, down = (truth.within_px / unit for unit in truth.unit_px)
    return point[0] - across, point[1] - down, point[0] + across, point[1] + down


_OWN: dict[str, Any] = {"label": "polyp", "extent": (1000.0, 1000.0), "unit_px": (0.5, 0.5), "codec": "thousandths"}
_TWO = Truth("[100, 100], [600, 500]", ((100, 100), (600, 500)), **_OWN)
_NONE = Truth("none", **_OWN)
_ANY = Truth("[100, 100]", _TWO.points, any_of=True, **_OWN)
_GRID = ", ".join(f"[{x}, {y}]" for x in range(0, 1000, 50) for y in range(0, 1000, 50))

EXAMPLES = [
    ("[100, 100], [600, 500]", _TWO, 1.0),
    ("(600, 500) and (100, 100)", _TWO, 1.0),
    ('[{"point_2d": [100, 100], "label": "polyp"}, {"point_2d": [600, 500], "label": "polyp"}]', _TWO, 1.0),
    ('[{"point": [500, 600], "label": "polyp"}, {"point": [100, 100], "label": "polyp"}]', _TWO, 1.0),
    ('<points x1="10.0" y1="10.0" x2="60.0" y2="50.0" alt="polyp">polyp</points>', _TWO, 1.0),
    ("[110, 100], [600, 500]", _TWO, 0.75),
    ("[100, 100]", _TWO, 0.5),
    ("[120, 100], [600, 520]", _TWO, 0.0),
    ("none", _TWO, 0.0),
    ("none", _NONE, 1.0),
    ("[100, 100]", _NONE, 0.0),
    ("I cannot tell", _NONE, 0.0),
    # One point many times, points everywhere, boxes, and points that are denied.
    ("[100, 100], [100, 100], [100, 100], [600, 500]", _TWO, 0.5),
    (_GRID, _TWO, 2 / 400),
    ("[50, 50, 150, 150], [550, 450, 650, 550]", _TWO, 0.0),
    ("not at [100, 100], [600, 500]", _TWO, 0.0),
    ("[100, 100], [600,", _TWO, 0.0),
    # One of two: a second point does not pay more, and one beside it costs its share.
    ("[100, 100]", _ANY, 1.0),
    ("[600, 510]", _ANY, 0.5),
    ("[100, 100], [600, 500]", _ANY, 1.0),
    ("[100, 100], [300, 300]", _ANY, 0.5),
    ("[100, 100], [100, 100]", _ANY, 0.5),
    (_GRID, _ANY, 2 / 400),
    ("none", _ANY, 0.0),
]
