"""Canvases that several families share. Axes: height, width."""

from __future__ import annotations

from medvlm.core.families import Processed, Size
from medvlm.core.geometry import Canvas, crop, resize


def squash(made: Processed) -> Canvas:
    """The picture is stretched to the processor's size."""
    new = made.processor.image_processor.size
    return resize(made.size, (new["height"], new["width"]))


def pad_to_square(size: Size) -> Canvas:
    """The picture is padded to a square around it."""
    side = max(size)
    return crop(size, -((side - size[0]) // 2), -((side - size[1]) // 2), (side, side))
