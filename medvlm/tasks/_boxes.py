"""What tasks with boxes share: boxes fit their image, follow its changes, and are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Box, Medium
from medvlm.core.tasks import LabelledBox


def check_boxes(boxes: Sequence[Box], media: Sequence[Medium]) -> None:
    """Raises DataError for a box that is empty, reaches beyond the first medium, or is smaller than a pixel."""
    height, width = media[0].size[-2:] if media else (0, 0)
    for x1, y1, x2, y2 in boxes:
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise DataError(f"a box is empty or reaches beyond the image of {width} x {height} pixels")
        if x2 - x1 < 1 and y2 - y1 < 1:
            raise DataError(
                "a box is smaller than a pixel: boxes are in pixels of the image; if these are shares of it (0 to 1),"
                " multiply them by its width and height"
            )


def follow_boxes(boxes: tuple[Box, ...], canvas: Canvas) -> tuple[Box, ...]:
    """Those of which at least half stays, in pixels of the canvas."""
    followed = clip_boxes(boxes, canvas)
    # Boxes that went from left to right still do.
    return tuple(sorted(followed)) if list(boxes) == sorted(boxes) else followed


def clip_boxes(boxes: tuple[Box, ...], canvas: Canvas) -> tuple[Box, ...]:
    """The same, always in their order."""
    return tuple(box for box in map(canvas.clip_box, boxes) if box is not None)


def mark(boxes: Sequence[Box], label: str) -> tuple[LabelledBox, ...]:
    return tuple((box, label or "box") for box in boxes)


def is_sized(media: Sequence[Medium]) -> bool:
    """Whether the first medium says how large it is, so that boxes can be made up on it."""
    return bool(media) and len(media[0].size) > 1 and all(media[0].size)


def make_box(number: int, size: tuple[int, ...]) -> Box:
    """One of four beside each other, in the middle of an image of this size."""
    height, width = size[-2:]
    return (width * (0.1 + 0.2 * number), height * 0.3, width * (0.25 + 0.2 * number), height * 0.6)
