"""`[x1, y1, x2, y2], ...` as shares of the image that the model sees, with three decimals: LLaVA (haotian-liu/LLaVA,
docs/Data.md)."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.geometry import Canvas
from medvlm.core.sample import Box
from medvlm.tasks._brackets import NONE, join


def extent(canvas: Canvas, scale: int) -> tuple[float, float]:
    """What (width, height) of the canvas are in this writing's units."""
    return 1.0, 1.0


def place(canvas: Canvas, box: Box, scale: int) -> Box | None:
    """A stored box in this writing's units; None where less than half of it lies on the canvas."""
    placed = canvas.quantize_box(box, (1000, 1000))
    return placed and (placed[0] / 1000, placed[1] / 1000, placed[2] / 1000, placed[3] / 1000)


def write(boxes: Sequence[Box], label: str) -> str:
    return join(boxes, decimals=3) or NONE


def snap(value: float) -> float:
    """A coordinate of a point as it is written."""
    return round(value, 3)


def write_points(points: Sequence[tuple[float, float]], label: str) -> str:
    """`[x, y], ...` with three decimals."""
    return join(points, decimals=3) or NONE
