"""Canvases that several families share. Axes: height, width."""

from __future__ import annotations

from medvlm.core.families import Processed, Size
from medvlm.core.geometry import Canvas, crop, resize


def squash(made: Processed) -> Canvas:
    """Stretched to the size of the processor."""
    new = made.processor.image_processor.size
    return resize(made.size, (new["height"], new["width"]))


def square(size: Size) -> Canvas:
    """Padded to a square, the picture in its middle."""
    side = max(size)
    return crop(size, -((side - size[0]) // 2), -((side - size[1]) // 2), (side, side))
