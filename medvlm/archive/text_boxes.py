"""Boxes that an archive writes into the text of an answer: `<ref>liver</ref><box>[[100, 200, 500, 600]]</box>`, or
`It's in the third image. <|box_start|>(92,150),(164,224)<|box_end|>`."""

from __future__ import annotations

import re
from collections.abc import Callable

from pydantic import Field

from medvlm.core.config import Config
from medvlm.core.errors import DataError
from medvlm.core.sample import Box, Truth, make_truth
from medvlm.tasks._notations import read_boxes

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_IMAGE = re.compile(rf"\s*it(?:'s| is) in the (?P<nth>{'|'.join(ORDINALS)}) image[.:]?\s*", re.IGNORECASE | re.ASCII)
_LABEL = re.compile(r"\s*(?:<ref>|<\|object_ref_start\|>)(?P<label>[^<]*)(?:</ref>|<\|object_ref_end\|>)\s*")
_BOXES = re.compile(
    r"\s*(?:(?:<box>(?:(?!</?box>).)*</box>[\s,;]*)+|(?:<\|box_start\|>(?:(?!<\|box_).)*<\|box_end\|>[\s,;]*)+"
    r"|\[[-0-9.,\s\[\]]+\])\s*\.?\s*",
    re.DOTALL,
)


class TextBoxes(Config):
    """How boxes are written in answers."""

    units: int = Field(0, ge=0)
    """What the width and the height of an image are in their units, e.g. 1000 for thousandths; 0: they are pixels."""


def read_text_boxes(
    config: TextBoxes, answer: str, images: int, find_size: Callable[[int], tuple[int, int]]
) -> Truth | None:
    """The truth of an answer that is nothing but boxes: the name of what they are around and the image that they lie on
    may stand before them. None for any other answer, such as a report with boxes in it.

    images: how many the question is about. Where several are, and none is named, boxes lie on the last. find_size: the
    number of an image, from 0 -> its (height, width); zeros if unknown. Raises DataError for boxes on an image that is
    not there, or in units of one whose size is unknown."""
    named = _IMAGE.match(answer)
    rest = answer[named.end() :] if named else answer
    label = _LABEL.match(rest)
    rest = rest[label.end() :] if label else rest
    if not images or not _BOXES.fullmatch(rest) or (found := read_boxes(rest)) is None or not found.written:
        return None
    if found.written != len(found.boxes):
        raise DataError("an answer has a box without an area")
    number = ORDINALS.index(named["nth"].lower()) if named else images - 1
    if number >= images:
        raise DataError(f"an answer has a box in image {number + 1} of {images}")
    boxes = tuple(
        sorted(_scale(box, config.units, find_size(number) if config.units else (0, 0)) for box in found.boxes)
    )
    called = label["label"].strip() if label else ""
    if images == 1:
        return make_truth("boxes", boxes=boxes, label=called)
    return make_truth("indexed_boxes", boxes=boxes, numbers=(number + 1,) * len(boxes), label=called)


def _scale(box: Box, units: int, size: tuple[int, int]) -> Box:
    if not units:
        return box
    height, width = size
    if not all(size):
        raise DataError("the size of an image with boxes is unknown")
    x1, y1, x2, y2 = box
    return x1 * width / units, y1 * height / units, x2 * width / units, y2 * height / units
