"""`<ref>label</ref><box>[[x1, y1, x2, y2], ...]</box>` in thousandths of the image: InternVL (OpenGVLab/InternVL,
grounding data format)."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.sample import Box
from medvlm.tasks._brackets import NONE, join
from medvlm.tasks.codecs._units import extent, place, snap

__all__ = ["extent", "place", "snap", "write", "write_points"]


def write(boxes: Sequence[Box], label: str) -> str:
    if not boxes:
        return NONE
    named = f"<ref>{label}</ref>" if label else ""
    return f"{named}<box>[{join(boxes)}]</box>"


def write_points(points: Sequence[tuple[float, float]], label: str) -> str:
    """`<ref>label</ref><point>[[x, y], ...]</point>`, after its boxes."""
    if not points:
        return NONE
    named = f"<ref>{label}</ref>" if label else ""
    return f"{named}<point>[{join(points)}]</point>"
