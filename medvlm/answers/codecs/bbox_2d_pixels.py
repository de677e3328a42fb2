"""`[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}]` in pixels of the resized image: Qwen2.5-VL (arXiv 2502.13923,
section 2.2.1)."""

from __future__ import annotations

from medvlm.answers.codecs.bbox_2d import write
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Box

__all__ = ["extent", "place", "write"]


def extent(canvas: Canvas, scale: int) -> tuple[float, float]:
    """What (width, height) of the canvas are in this writing's units."""
    return canvas.size[-1], canvas.size[-2]


def place(canvas: Canvas, box: Box, scale: int) -> Box | None:
    """A stored box in this writing's units; None where less than half of it lies on the canvas."""
    return canvas.answer_box(box, (canvas.size[-1], canvas.size[-2]))
