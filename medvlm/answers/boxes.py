"""Boxes as text: `[x1, y1, x2, y2], [x1, y1, x2, y2]` in whole units of the answer's scale, or `none`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medvlm.core.sample import Box

NONE = "none"
MAX_BOXES = 500
"""An answer of more boxes is not read: no image here has so many objects, and matching costs time."""
_GROUP = re.compile(r"\[([^\[\]]*)\]")
_NUMBER = re.compile(r"-?[0-9]{1,7}(?:\.[0-9]{1,9})?")


def write(boxes: Sequence[Box]) -> str:
    """Coordinates are rounded. What it writes, `parse` reads."""
    return ", ".join(f"[{', '.join(str(round(value)) for value in box)}]" for box in boxes) or NONE


def parse(text: str, repair: bool = False) -> list[Box] | None:
    """The boxes in the text, in its order; [] where it says that there are none, None where it cannot be read.

    Read: every innermost [...] of four numbers, with whatever JSON, fences or words around it. A box without
    an area or with x2 < x1 or y2 < y1 is dropped, or with `repair` its corners are put in order.
    """
    boxes = []
    for group in _GROUP.finditer(text):
        box = _box(group[1])
        if box and repair:
            box = min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])
        if box and box[0] < box[2] and box[1] < box[3]:
            boxes.append(box)
            if len(boxes) > MAX_BOXES:
                return None
    if boxes:
        return boxes
    return [] if text.strip(" \n\t.\"'`").lower() in (NONE, "[]") else None


def _box(inside: str) -> Box | None:
    if len(inside) > 80:  # longer than four numbers with blanks between them
        return None
    parts = inside.replace(",", " ").split()
    if len(parts) != 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    x1, y1, x2, y2 = map(float, parts)
    return x1, y1, x2, y2
