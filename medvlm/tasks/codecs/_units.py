"""Boxes in whole units of a fixed extent, and as JSON: what several codecs share."""

from __future__ import annotations

import json
from collections.abc import Sequence

from medvlm.core.geometry import Canvas
from medvlm.core.sample import Box


def extent(canvas: Canvas, scale: int) -> tuple[float, float]:
    """What (width, height) of the canvas are in this writing's units."""
    return scale, scale


def place(canvas: Canvas, box: Box, scale: int) -> Box | None:
    """A stored box in this writing's units; None where less than half of it lies on the canvas."""
    return canvas.quantize_box(box, (scale, scale))


def snap(value: float) -> float:
    """A coordinate of a point as it is written."""
    return round(value)


def write_json(key: str, boxes: Sequence[Sequence[float]], label: str) -> str:
    """`[{KEY: [...], "label": "..."}]` of boxes or points, with the numbers in the order they come in."""
    return json.dumps([{key: [round(value) for value in box], "label": label} for box in boxes], ensure_ascii=False)
