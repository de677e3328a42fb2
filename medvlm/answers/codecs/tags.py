"""`<ref>label</ref><box>[[x1, y1, x2, y2], ...]</box>` in thousandths of the image: InternVL (OpenGVLab/InternVL,
grounding data format)."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.answers.brackets import NONE, listed
from medvlm.answers.codecs.thousandths import extent, place
from medvlm.core.sample import Box

__all__ = ["extent", "place", "write"]


def write(boxes: Sequence[Box], label: str) -> str:
    if not boxes:
        return NONE
    named = f"<ref>{label}</ref>" if label else ""
    return f"{named}<box>[{listed(boxes)}]</box>"
