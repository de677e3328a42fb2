"""`<loc0012><loc0345><loc0678><loc0901> label ; ...`: y1, x1, y2, x2 in 1024ths of the image: PaliGemma (arXiv
2407.07726, section 3.2.5)."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.geometry import Canvas
from medvlm.core.sample import Box
from medvlm.tasks._brackets import NONE


def extent(canvas: Canvas, scale: int) -> tuple[float, float]:
    """What (width, height) of the canvas are in this writing's units."""
    return 1024, 1024


def place(canvas: Canvas, box: Box, scale: int) -> Box | None:
    """A stored box in this writing's units; None where less than half of it lies on the canvas. The last token is 1023:
    what touches the edge ends there."""
    placed = canvas.quantize_box(box, (1024, 1024))
    return placed and (min(placed[0], 1022), min(placed[1], 1022), min(placed[2], 1023), min(placed[3], 1023))


def write(boxes: Sequence[Box], label: str) -> str:
    written = (
        "".join(f"<loc{round(value):04d}>" for value in (y1, x1, y2, x2)) + f" {label}" for x1, y1, x2, y2 in boxes
    )
    return " ; ".join(w.strip() for w in written) or NONE


def snap(value: float) -> float:
    """A coordinate of a point as it is written. The last token is 1023."""
    return min(round(value), 1023)


def write_points(points: Sequence[tuple[float, float]], label: str) -> str:
    """`<loc0012><loc0345> label ; ...`: y, x, after its boxes."""
    written = (f"<loc{round(y):04d}><loc{round(x):04d}> {label}".strip() for x, y in points)
    return " ; ".join(written) or NONE
