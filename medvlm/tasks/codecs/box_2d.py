"""`[{"box_2d": [y1, x1, y2, x2], "label": "..."}]` in thousandths of the image, rows first: Gemma 3 and MedGemma 1.5.

Source: the anatomy localisation notebook of Google-Health/medgemma, from memory and not checked against a copy.
"""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.sample import Box
from medvlm.tasks.codecs._units import extent, place, snap, write_json

__all__ = ["extent", "place", "snap", "write", "write_points"]


def write(boxes: Sequence[Box], label: str) -> str:
    return write_json("box_2d", [(y1, x1, y2, x2) for x1, y1, x2, y2 in boxes], label)


def write_points(points: Sequence[tuple[float, float]], label: str) -> str:
    """`[{"point": [y, x], "label": "..."}]`: the form of Gemini, from memory and not checked against a copy."""
    return write_json("point", [(y, x) for x, y in points], label)
