"""Handles samples that are too long for a stage, and splits a step's documents into micro-batches that fit.

An image or its span of tokens is never cut. A sample is trained whole, if necessary with all its images scaled down by
the same factor, or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from medvlm.core.errors import DataError
from medvlm.data.dialogue import TokenSequence
from medvlm.data.rows import assign_rows

Overlong = Literal["error", "drop", "reduce"]


_STEP = 0.97
"""Factor for the sides of images between attempts. Processors round sizes to patches and tiles, so the number of tokens
is not proportional to the area."""
_SMALLEST = 0.05


class TooLong(DataError):
    """A sample that is left out because it is too long. Another one takes its place; it is counted, but not as bad."""


def shrink_to_fit(
    made: Callable[[float], TokenSequence], whole: TokenSequence, num_image: int, max_tokens: int
) -> TokenSequence | None:
    """The sample with all its images scaled down by one factor, so that it has at most `max_tokens`. The factor is the
    result's `scale`.

    made: builds the sample at a scale. whole: the sample at scale 1; `num_image` of its tokens are image tokens. Starts
    at the scale estimated from the area and shrinks by 3 % until the sample fits. None if the text alone is too long,
    or if it does not fit at a scale of 0.05."""
    text = len(whole) - num_image
    if text >= max_tokens or not num_image:
        return None
    scale = min(1.0, math.sqrt((max_tokens - text) / num_image))
    while scale >= _SMALLEST:
        if len(found := made(scale)) <= max_tokens:
            return replace(found, scale=scale)
        scale *= _STEP
    return None


def partition(documents: Sequence[TokenSequence], count: int, max_cells: int) -> list[list[TokenSequence]]:
    """Splits the documents, in order, into at least `count` runs of about equal length; into more if needed to keep
    each below `max_cells` (0: no limit).

    Cells: rows times width of the micro-batch, its padding included. A single document is always accepted as a run.
    """
    while True:
        runs = _split_into_runs(documents, count)
        if count >= len(documents) or not max_cells or max(map(count_cells, runs)) <= max_cells:
            return runs
        count += 1


def count_cells(documents: Sequence[TokenSequence]) -> int:
    """Rows times width of these documents as a micro-batch."""
    return len(assign_rows(documents)) * max(map(len, documents))


def _split_into_runs(documents: Sequence[TokenSequence], count: int) -> list[list[TokenSequence]]:
    """`count` non-empty runs with about the same number of tokens."""
    count = min(count, len(documents))
    ends, at, total, whole = [0], 0, 0, sum(map(len, documents))
    for run in range(1, count):
        most = len(documents) - (count - run)  # each of the later runs keeps one
        total, at = total + len(documents[at]), at + 1
        while at < most and total + len(documents[at]) / 2 <= whole * run / count:
            total, at = total + len(documents[at]), at + 1
        ends.append(at)
    return [list(documents[a:b]) for a, b in pairwise([*ends, len(documents)])]
