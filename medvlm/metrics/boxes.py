"""How well boxes are found. Boxes of the truth are in the coordinates of answers.

Both metrics match found and true boxes one to one, with the largest sum of IoU, and divide by
max(number found, number true): a question with one object and one answered box is plain IoU and plain hit,
and covering the image with boxes does not pay. A question with nothing to find counts 1 for `none`, else 0.
"""

from __future__ import annotations

from functools import lru_cache

from medvlm.answers.boxes import parse
from medvlm.answers.matching import match
from medvlm.core.sample import Box, Truth

HIT_IOU = 0.5


def mean_iou(answer: str, truth: Truth) -> float:
    overlaps, expected = _overlaps(answer, truth.boxes)
    return sum(overlaps) / expected


def hit_rate(answer: str, truth: Truth) -> float:
    """The share of boxes that overlap their partner with an IoU of at least 0.5."""
    overlaps, expected = _overlaps(answer, truth.boxes)
    return sum(overlap >= HIT_IOU for overlap in overlaps) / expected


def unreadable(answer: str, truth: Truth) -> float:
    return float(parse(answer) is None)


@lru_cache(maxsize=1 << 16)
def _overlaps(answer: str, true: tuple[Box, ...]) -> tuple[tuple[float, ...], int]:
    """IoU of the matched pairs, and how many there should be. Kept: several metrics ask about one answer."""
    found = parse(answer)
    if found is None or not true:
        return (1.0,) if found == [] and not true else (), max(1, len(true))
    return tuple(overlap for _, _, overlap in match(found, true)), max(len(found), len(true))
