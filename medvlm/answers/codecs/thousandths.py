"""`[x1, y1, x2, y2], ...` in whole units of 0..scale of the image that the model sees, scale 1000 by default."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.answers.brackets import NONE, listed
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Box


def extent(canvas: Canvas, scale: int) -> tuple[float, float]:
    """What (width, height) of the canvas are in this writing's units."""
    return scale, scale


def place(canvas: Canvas, box: Box, scale: int) -> Box | None:
    """A stored box in this writing's units; None where less than half of it lies on the canvas."""
    return canvas.answer_box(box, (scale, scale))


def write(boxes: Sequence[Box], label: str) -> str:
    return listed(boxes) or NONE
