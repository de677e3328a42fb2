"""`[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}]` in pixels of the resized image: Qwen2.5-VL (arXiv 2502.13923,
section 2.2.1)."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.geometry import Canvas
from medvlm.core.sample import Box
from medvlm.tasks.codecs._units import snap, write_json

__all__ = ["extent", "place", "snap", "write", "write_points"]


def extent(canvas: Canvas, scale: int) -> tuple[float, float]:
    """What (width, height) of the canvas are in this writing's units."""
    return canvas.size[-1], canvas.size[-2]


def place(canvas: Canvas, box: Box, scale: int) -> Box | None:
    """A stored box in this writing's units; None where less than half of it lies on the canvas."""
    return canvas.quantize_box(box, (canvas.size[-1], canvas.size[-2]))


def write(boxes: Sequence[Box], label: str) -> str:
    return write_json("bbox_2d", boxes, label)


def write_points(points: Sequence[tuple[float, float]], label: str) -> str:
    """`[{"point_2d": [x, y], "label": "..."}]`, as in the same section."""
    return write_json("point_2d", points, label)
