"""Boxes in text with the number of the image, or of the slice, that they lie on: `image 2: [..]; image 3: [..]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from medvlm.core.errors import DataError
from medvlm.core.sample import Box
from medvlm.tasks import _brackets
from medvlm.tasks._brackets import MAX_BOXES
from medvlm.tasks._matching import assign, iou
from medvlm.tasks._notations import LONGEST_TEXT, is_denied, list_words_beside, read_boxes, says_none

GLUE = "; "
PlacedBox = tuple[int, Box]
"""The number of an image or slice, from 1, and a box on it."""
_WORDS = {"image": "image|picture|scan|film|figure", "slice": "slice|frame|picture|image"}
"""`image` or `slice` -> the words by which answers call one."""


def write(found: Sequence[PlacedBox], of: str, write_boxes: Callable[[Sequence[Box]], str]) -> str:
    """of: `image` or `slice`. What it writes, `read` reads."""
    numbers = list(dict.fromkeys(number for number, _ in found))
    own = {number: [box for at, box in found if at == number] for number in numbers}
    return GLUE.join(f"{of} {number}: {write_boxes(boxes)}" for number, boxes in own.items()) or _brackets.NONE


def read(
    text: str, of: str, find_extent: Callable[[int], Sequence[float]], label: str = ""
) -> tuple[list[PlacedBox], int] | None:
    """The boxes with an area, and how many stand there, as `read_boxes` reads those of each image. None for a text that
    cannot be read: boxes without a number, or that are denied, too many, or none without the words for it.

    find_extent: the number of an image -> its (width, height) in the units of the answer."""
    if len(text) > LONGEST_TEXT:
        return None
    marks = list(_find_marks(text, of))
    if not marks:
        plain = " ".join(text.split())
        return ([], 0) if says_none(plain, list_words_beside(plain, [], label)) else None
    before = " ".join(text[: marks[0].start()].split())
    if re.search(r"[0-9]\s*[,;]\s*[0-9]", before) or is_denied(list_words_beside(before, [], label)):
        return None
    found, written = list[PlacedBox](), 0
    for mark, end in zip(marks, [*(mark.start() for mark in marks[1:]), len(text)], strict=True):
        number, said = int(mark[1]), text[mark.end() : end].strip(" \t\n:;,.=-")
        boxes = read_boxes(said.removesuffix(" and").strip(" ;,"), find_extent(number), label)
        if boxes is None:
            return None
        found += [(number, box) for box in boxes.boxes]
        written += boxes.written
    return (found, written) if written <= MAX_BOXES else None


def check_label(label: str, of: str) -> None:
    """Raises DataError for one, such as `image 3`, that would be read as the number of an image or slice."""
    if any(_find_marks(label, of)):
        raise DataError(
            f"the label {label!r} would be read as the number of an {of} in an answer; name what is to be found without"
            " a number"
        )


def _find_marks(text: str, of: str) -> Iterator[re.Match[str]]:
    return re.finditer(rf"(?<!\w)(?:{_WORDS[of]})\s*(?:#|no\.?\s*)?([0-9]{{1,5}})(?![0-9.])", text, re.IGNORECASE)


def match(found: Sequence[PlacedBox], true: Sequence[PlacedBox], within: int) -> tuple[float, ...]:
    """The gains of the pairs of the one-to-one matching with the largest sum: IoU times 1 - d / (within + 1), d numbers
    away. true: at least one."""
    gains = [[_gain(own, other, within) for other in true] for own in found]
    return tuple(gains[i][j] for i, j in assign(gains))


def _gain(own: PlacedBox, true: PlacedBox, within: int) -> float:
    away = abs(own[0] - true[0])
    return iou(own[1], true[1]) * (1 - away / (within + 1)) if away <= within else 0.0
