"""What a stage does with samples that are longer than it takes, and how a step's documents become micro-batches that
fit.

An image or its span of tokens is never cut: a sample is trained whole, if need be with all its images made smaller
alike, or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from medvlm.core.errors import DataError
from medvlm.data.dialogue import Document
from medvlm.data.rows import rows_of

Overlong = Literal["error", "drop", "reduce"]


_STEP = 0.97
"""Of the sides of images from one attempt to the next: processors round sizes to patches and tiles, so tokens do not
follow the area closely."""
_SMALLEST = 0.05


class TooLong(DataError):
    """A sample that the recipe leaves out for its length: another takes its place, and it is counted, but it is no bad
    sample."""


def reduced(made: Callable[[float], Document], whole: Document, num_image: int, max_tokens: int) -> Document | None:
    """The sample with the sides of all its images times one scale, so that it has at most `max_tokens`; the document
    tells the scale.

    made: the document at a scale. whole: at scale 1, `num_image` of whose tokens are of images. The scale is the one by
    area, or the first below it, in steps of 3 %, that fits. None where the text alone is longer, and where a twentieth
    does not fit."""
    text = len(whole) - num_image
    if text >= max_tokens or not num_image:
        return None
    scale = min(1.0, math.sqrt((max_tokens - text) / num_image))
    while scale >= _SMALLEST:
        if len(found := made(scale)) <= max_tokens:
            return replace(found, scale=scale)
        scale *= _STEP
    return None


def partition(documents: Sequence[Document], count: int, max_cells: int) -> list[list[Document]]:
    """In their order, in at least `count` runs about equally long, and in as many more as it takes that none has more
    than `max_cells` (0: no bound).

    Cells: rows times width of the micro-batch, its padding included. A document alone always makes a run.
    """
    while True:
        runs = _runs(documents, count)
        if count >= len(documents) or not max_cells or max(map(cells, runs)) <= max_cells:
            return runs
        count += 1


def cells(documents: Sequence[Document]) -> int:
    """Rows times width of these documents as a micro-batch."""
    return len(rows_of(documents)) * max(map(len, documents))


def _runs(documents: Sequence[Document], count: int) -> list[list[Document]]:
    """`count` runs, none empty, whose ends are next to equal shares of the tokens."""
    count = min(count, len(documents))
    ends, at, total, whole = [0], 0, 0, sum(map(len, documents))
    for run in range(1, count):
        most = len(documents) - (count - run)  # each of the later runs keeps one
        total, at = total + len(documents[at]), at + 1
        while at < most and total + len(documents[at]) / 2 <= whole * run / count:
            total, at = total + len(documents[at]), at + 1
        ends.append(at)
    return [list(documents[a:b]) for a, b in pairwise([*ends, len(documents)])]
