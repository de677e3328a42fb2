"""Boxes in square brackets: `[x1, y1, x2, y2], [x1, y1, x2, y2]`, or `none`."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.sample import Box

NONE = "none"
MAX_BOXES = 500
"""An answer of more boxes is not read: no image here has so many objects, and matching costs time."""


def write(boxes: Sequence[Box]) -> str:
    """Without a label: whole numbers, or three decimals where they are shares of the image."""
    return join(boxes, decimals=3 if boxes and max(map(max, boxes)) <= 1 else 0) or NONE


def join(boxes: Sequence[Sequence[float]], decimals: int = 0) -> str:
    """Coordinates of boxes or points are rounded. What it writes, `read_boxes` or `read_points` reads; nothing for
    none."""
    return ", ".join(
        f"[{', '.join(f'{value:.{decimals}f}' if decimals else str(round(value)) for value in box)}]" for box in boxes
    )
