"""`label<loc_12><loc_345><loc_678><loc_901><loc_...>`: x1, y1, x2, y2 of each box in 1000 bins of the image: Florence-2
(arXiv 2311.06242, section 4.1; the bins as in transformers' Florence2PostProcessor)."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.geometry import Canvas
from medvlm.core.sample import Box
from medvlm.tasks._brackets import NONE

BINS = 1000


def extent(canvas: Canvas, scale: int) -> tuple[float, float]:
    """What (width, height) of the canvas are in this writing's units."""
    return BINS, BINS


def place(canvas: Canvas, box: Box, scale: int) -> Box | None:
    """The bins of a stored box; None where less than half of it lies on the canvas. What touches the edge lies in the
    last bin, 999, and a box within one bin is widened to two."""
    visible = canvas.clip_box(box)
    if visible is None:
        return None
    height, width = canvas.size[-2:]
    x1, y1, x2, y2 = (
        min(int(edge / side * BINS), BINS - 1)
        for edge, side in zip(visible, (width, height, width, height), strict=True)
    )
    x1, y1 = min(x1, BINS - 2), min(y1, BINS - 2)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def write(boxes: Sequence[Box], label: str) -> str:
    return label + "".join(f"<loc_{round(edge)}>" for box in boxes for edge in box) if boxes else NONE


def snap(value: float) -> float:
    """A coordinate of a point as it is written: its bin."""
    return min(int(value), BINS - 1)


def write_points(points: Sequence[tuple[float, float]], label: str) -> str:
    """`label<loc_12><loc_345> ; ...`: x, y. Florence-2 was not taught points; they are written beside its boxes."""
    return " ; ".join(f"{label}<loc_{round(x)}><loc_{round(y)}>" for x, y in points) or NONE
