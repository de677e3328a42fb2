"""Where objects are: boxes as text, in the coordinates of the image that the model sees.

All metrics match found and true boxes one to one, with the largest sum of IoU, and divide by max(number found, number
true): a question with one object and one answered box is plain IoU and plain hit, and neither many boxes nor few pay.
A question with nothing to find counts 1 for `none`, else 0. Where one of several objects is to be marked (`any_of`),
one box is expected, and the true box that it fits best counts. The average precision (`ap50`) is of all boxes of a
class at once: boxes as text have no score, so its curve has one point, and the area below it is precision times recall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import mean, median
from typing import TYPE_CHECKING, Any, Literal

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.measure import Measure, average
from medvlm.core.sample import Box, Medium
from medvlm.core.tasks import Drawing
from medvlm.tasks import _brackets, _writing
from medvlm.tasks._boxes import check_boxes, clip_boxes, follow_boxes, is_sized, make_box, mark
from medvlm.tasks._made_up import draw_answer, make_question
from medvlm.tasks._matching import match
from medvlm.tasks._notations import read_boxes
from medvlm.tasks._writing import Writing

if TYPE_CHECKING:
    import numpy as np

SLOT = "{boxes}"
"""Where an answer holds this text, the boxes are written in the coordinates of what the model sees."""
HIT_IOU = 0.5
UNNAMED = "object"
"""The class of boxes without a label, in results."""
CANDIDATES, JUDGES = 60, 200
"""Constant answers that are tried, and questions they are tried on: the rest would cost time and change little."""


@dataclass(frozen=True)
class Truth(sample.Truth):
    """`boxes` of `label` on medium 0, in stored pixels or, once placed, as they are written. answer: holds SLOT until
    then. any_of: one of the boxes is to be marked, and each is right; the first is the one that was marked and is
    written. codec, extent: once placed, how boxes are written and what (width, height) of the image are in its
    units."""

    boxes: tuple[Box, ...] = ()
    label: str = ""
    any_of: bool = False
    codec: str = ""
    extent: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if any(len(box) != 4 for box in self.boxes):
            raise DataError("a box has four numbers: x1, y1, x2, y2")
        if not self.answer:
            object.__setattr__(self, "answer", SLOT)

    def to_json(self) -> dict[str, Any]:
        """Without `any_of` where all are to be marked, and what only a placed truth has, where it has none."""
        left_out = ("any_of", "codec", "extent")
        return {name: value for name, value in super().to_json().items() if value or name not in left_out}

    @property
    def written(self) -> tuple[Box, ...]:
        """The boxes of the written answer."""
        return self.boxes[:1] if self.any_of else self.boxes


class Config(Base):
    kind: Literal["boxes"]
    label: str = ""
    """What is to be found."""
    any_of: bool = False
    """Whether one of the boxes is to be marked, and each is right. The first is the one that was marked: a model is
    trained to write it."""


NEEDS_CANVAS = True
FOLLOWS_CROPS = FOLLOWS_WARPS = True


# --- text -------------------------------------------------------------------------------------------


def parse(text: str, truth: Truth | None = None) -> list[Box] | None:
    """The boxes with an area, in the order of the text; [] where it says that there are none, None where it cannot be
    read."""
    found = read_boxes(text, truth.extent, truth.label) if truth else read_boxes(text)
    return None if found is None or len(found.boxes) < min(1, found.written) else found.boxes


def is_formatted(answer: str, truth: Truth) -> bool:
    """As the codec of the recipe writes it, blanks within it aside; before it is placed, as any codec does."""
    return _writing.is_written(answer, truth.label, truth.codec, truth.extent)


def from_text(text: str, config: Config) -> Truth | None:
    """`[x1, y1, x2, y2], ...` in stored pixels, or `none`; None for any other text, and for a box without an area."""
    found = read_boxes(text)
    if found is None or found.written != len(found.boxes):
        return None
    boxes = tuple(found.boxes if config.any_of else sorted(found.boxes))
    return Truth(boxes=boxes, label=config.label, any_of=config.any_of)


# --- geometry ---------------------------------------------------------------------------------------


def check(truth: Truth, media: Sequence[Medium]) -> None:
    check_boxes(truth.boxes, media)


def has_coordinates(truth: Truth) -> bool:
    return bool(truth.boxes)


def place(truth: Truth, canvas: Canvas | None, writing: Writing) -> Truth:
    if canvas is None and SLOT not in truth.answer:
        return truth
    if canvas is None:
        raise DataError(
            "its boxes lie on stored slices, and the model is shown another plane (model.views) or none; use plane:"
            " stored, or leave `boxes` out of `tasks`"
        )
    kept = writing.place_all(canvas, truth.boxes)
    if truth.boxes and not kept:
        raise DataError("no box lies on what the model sees; use preprocess.fit: squash, or drop the question")
    placed = replace(truth, boxes=kept)
    return replace(
        placed,
        answer=truth.answer.replace(SLOT, writing.write(placed.written, truth.label)),
        codec=writing.codec,
        extent=writing.extent(canvas),
    )


def follow(truth: Truth, canvas: Canvas) -> Truth | None:
    boxes = clip_boxes(truth.boxes, canvas) if truth.any_of else follow_boxes(truth.boxes, canvas)
    return replace(truth, boxes=boxes) if boxes or not truth.boxes else None


# --- score and measures -----------------------------------------------------------------------------


def score(answer: str, truth: Truth) -> float:
    # A sum of perfect overlaps may round to a hair above their number.
    return min(1.0, mean_iou(answer, truth))


def mean_iou(answer: str, truth: Truth) -> float:
    overlaps, expected = _overlaps(answer, truth)
    return sum(overlaps) / expected


def hit_rate(answer: str, truth: Truth) -> float:
    """The share of boxes that overlap their partner with an IoU of at least 0.5."""
    overlaps, expected = _overlaps(answer, truth)
    return sum(overlap >= HIT_IOU for overlap in overlaps) / expected


def is_unreadable(answer: str, truth: Truth) -> float:
    return float(parse(answer, truth) is None)


@lru_cache(maxsize=1 << 16)
def _overlaps(answer: str, truth: Truth) -> tuple[tuple[float, ...], int]:
    """IoU of the matched pairs, and how many there should be. Kept: several metrics ask about one answer."""
    found, expected = read_boxes(answer, truth.extent, truth.label), len(truth.written)
    if found is None or not expected:
        return (1.0,) if found is not None and not found.written and not expected else (), max(1, expected)
    return tuple(overlap for _, _, overlap in match(found.boxes, truth.boxes)), max(found.written, expected)


def count_hits(answer: str, truth: Truth) -> dict[str, tuple[float, ...]]:
    """Boxes that hit their partner, that are written, and that there are."""
    found = read_boxes(answer, truth.extent, truth.label)
    overlaps, _ = _overlaps(answer, truth)
    hits = sum(overlap >= HIT_IOU for overlap in overlaps) if truth.boxes else 0
    return {truth.label or UNNAMED: (float(hits), float(found.written if found else 0), float(len(truth.written)))}


def find_ap50(totals_RK: np.ndarray) -> np.ndarray:
    """Precision times recall; NaN without a true box."""
    import numpy as np

    hits, written, true = totals_RK.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(true > 0, hits * hits / (np.maximum(written, 1) * true), np.nan)


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """Of the answers in `truths`, and of the coordinate-wise median where each is a single box, the one with the
    largest mean IoU, or the largest hit rate. (The median alone is poor where objects lie left or right: it is a box
    between them.)"""
    judge = hit_rate if measure is not None and measure.metric == HIT_RATE else mean_iou
    candidates = [_brackets.write(truth.written) for truth in _spread(truths, CANDIDATES)]
    if all(len(truth.written) == 1 for truth in truths):
        candidates.append(_brackets.write([_median_box([truth.boxes[0] for truth in truths])]))
    judges = _spread(truths, JUDGES)
    return max(dict.fromkeys(candidates), key=lambda answer: mean(judge(answer, truth) for truth in judges))


def _median_box(found: Sequence[Box]) -> Box:
    x1, y1, x2, y2 = (median(side) for side in zip(*found, strict=True))
    return x1, y1, x2, y2


def _spread(truths: Sequence[Truth], most: int) -> list[Truth]:
    """At most that many, at equal distances."""
    return [truths[i * len(truths) // min(most, len(truths))] for i in range(min(most, len(truths)))]


HIT_RATE, AP50 = "hit_rate", "ap50"
MEASURES = (
    Measure("mean_iou", "boxes", average(mean_iou), by_template=True, headline=True, words="mean IoU"),
    Measure(HIT_RATE, "boxes", average(hit_rate), by_template=True, headline=True),
    Measure(
        AP50, "boxes", count_hits, statistic=find_ap50, by_class=True, by_template=True,
        words="average precision at IoU 0.5, all boxes alike",
    ),
    Measure("unreadable", "boxes", average(is_unreadable), better=None),
)  # fmt: skip


# --- rehearsal and report ---------------------------------------------------------------------------


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth] | None:
    question = make_question(rng, "boxes")
    if not is_sized(media):
        return None
    number, _ = draw_answer(rng)
    return question, Truth(boxes=(make_box(number, media[0].size),), label="nodule")


def summarise(truth: Truth) -> str:
    boxes = f"{len(truth.boxes)} {'box' if len(truth.boxes) == 1 else 'boxes'}"
    return f"one of {boxes}" if truth.any_of else boxes


def describe(answer: Any, truth: Truth) -> Drawing:
    """A box that the parser refuses is not drawn."""
    found = parse(answer, truth) if isinstance(answer, str) else None
    return Drawing(
        truth.answer.replace(SLOT, _brackets.write(truth.written)),
        summary=f"{len(truth.boxes)} boxes, drawn" if truth.answer == SLOT else "",
        boxes=mark(truth.boxes, truth.label),
        found=mark(found or (), truth.label),
    )


_TWO = Truth(boxes=((0, 0, 100, 100), (500, 500, 700, 600)), label="RBC")
_NONE = Truth(label="RBC")
_ANY = Truth(boxes=_TWO.boxes, label="RBC", any_of=True)
_GRID = ", ".join(f"[{x}, {y}, {x + 100}, {y + 100}]" for x in range(0, 1000, 100) for y in range(0, 1000, 100))

EXAMPLES = [
    ("[0, 0, 100, 100], [500, 500, 700, 600]", _TWO, 1.0),
    ("[500, 500, 700, 600], [0, 0, 100, 100]", _TWO, 1.0),
    ("[0, 0, 100, 50], [500, 500, 700, 600]", _TWO, 0.75),
    ("[0, 0, 100, 100]", _TWO, 0.5),
    ("[200, 200, 300, 300]", _TWO, 0.0),
    ("[100, 100, 0, 0]", _TWO, 0.0),
    ("none", _TWO, 0.0),
    ("none", _NONE, 1.0),
    ("[0, 0, 100, 100]", _NONE, 0.0),
    ("I cannot tell", _NONE, 0.0),
    # One box many times, boxes everywhere, and the whole image earn little or nothing.
    ("[0, 0, 100, 100], [0, 0, 100, 100], [0, 0, 100, 100], [500, 500, 700, 600]", _TWO, 0.5),
    (_GRID, _TWO, 0.015),
    ("[0, 0, 1000, 1000]", _TWO, 0.01),
    # One of two: a second box does not pay more, and one beside it costs its share.
    ("[0, 0, 100, 100]", _ANY, 1.0),
    ("[500, 500, 700, 600]", _ANY, 1.0),
    ("[0, 0, 100, 50]", _ANY, 0.5),
    ("[0, 0, 100, 100], [500, 500, 700, 600]", _ANY, 1.0),
    ("[0, 0, 100, 100], [200, 200, 300, 300]", _ANY, 0.5),
    ("[0, 0, 100, 100], [0, 0, 100, 100]", _ANY, 0.5),
    ("none", _ANY, 0.0),
]
