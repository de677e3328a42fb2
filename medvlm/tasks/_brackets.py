"""Boxes in square brackets: `[x1, y1, x2, y2], [x1, y1, x2, y2]`, or `none`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from medvlm.core.sample import Box

NONE = "none"
MAX_BOXES = 500
"""An answer of more boxes is not read: no image here has so many objects, and matching costs time."""
_GROUP = re.compile(r"\[([^\[\]]*)\]|\(([^()]{1,40})\)\s*,\s*\(([^()]{1,40})\)")
_NUMBER = re.compile(r"-?[0-9]{1,7}(?:\.[0-9]{1,9})?")


def write(boxes: Sequence[Box]) -> str:
    """Without a label: whole numbers, or three decimals where they are shares of the image."""
    return join(boxes, decimals=3 if boxes and max(map(max, boxes)) <= 1 else 0) or NONE


def join(boxes: Sequence[Box], decimals: int = 0) -> str:
    """Coordinates are rounded. What it writes, `parse` reads; nothing for no boxes."""
    return ", ".join(
        f"[{', '.join(f'{value:.{decimals}f}' if decimals else str(round(value)) for value in box)}]" for box in boxes
    )


def parse(text: str, repair: bool = False) -> list[Box] | None:
    """The boxes in the text, in its order; [] where it says that there are none, None where it cannot be read.

    Read: every innermost [...] of four numbers and every (x1, y1), (x2, y2), with whatever JSON, fences or words around
    it. A box without an area or with x2 < x1 or y2 < y1 is dropped, or with `repair` its corners are put in order.
    """
    found = [
        box
        for group in _GROUP.finditer(text)
        if (box := _box(group[1] if group[1] is not None else f"{group[2]},{group[3]}"))
    ]
    boxes = keep_boxes(found, repair)
    if boxes:
        return boxes if len(boxes) <= MAX_BOXES else None
    return [] if text.strip(" \n\t.\"'`").lower() in (NONE, "[]") else None


def keep_boxes(boxes: Iterable[Box], repair: bool) -> list[Box]:
    """Those with an area; with `repair` after their corners are put in order."""
    if repair:
        boxes = [(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)) for x1, y1, x2, y2 in boxes]
    return [box for box in boxes if box[0] < box[2] and box[1] < box[3]]


def _box(inside: str) -> Box | None:
    if len(inside) > 80:  # longer than four numbers with blanks between them
        return None
    parts = inside.replace(",", " ").split()
    if len(parts) != 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    x1, y1, x2, y2 = map(float, parts)
    return x1, y1, x2, y2
