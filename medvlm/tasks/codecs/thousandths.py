"""`[x1, y1, x2, y2], ...` in whole units of 0..scale of the image that the model sees, scale 1000 by default."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.sample import Box
from medvlm.tasks._brackets import NONE, join
from medvlm.tasks.codecs._units import extent, place, snap

__all__ = ["extent", "place", "snap", "write", "write_points"]


def write(boxes: Sequence[Box], label: str) -> str:
    return join(boxes) or NONE


def write_points(points: Sequence[tuple[float, float]], label: str) -> str:
    """`[x, y], ...`"""
    return join(points) or NONE
