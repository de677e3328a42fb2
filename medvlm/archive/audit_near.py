"""Which images of one set nearly equal one of another, without comparing all pairs.

Axes: Q images that are asked for, S images that they are looked for in, P pairs; 4 words of 64 bits each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

DISTANCE = 31
"""Bits of 256 that may differ. Over 379,756 pairs of 872 real images (films, fundi, smears, endoscopy, CT and MR slices) none
at or below it but copies, and the next pair at 50; copies at half the size, at 224 x 224, as JPEG of quality 30, 40 grey
levels brighter or with 0.6 of the contrast lie at or below 28."""

_BAND = 16
_FLIPS = np.array([0, *(1 << bit for bit in range(_BAND))], np.uint16)
_PAIRS = 1 << 21
"""Pairs that are compared at a time: about 150 MB."""


def nearest_within(query_Q4: np.ndarray, stored_S4: np.ndarray, distance: int = DISTANCE) -> tuple[np.ndarray, np.ndarray]:
    """For each image asked for, the nearest stored one within `distance` and how many bits differ; -1 and 256 where there is none.

    Complete up to 31 bits: 31 differences cannot hit each of 16 bands of 16 bits twice, so one band is equal but for one bit at
    most, and all images of such a band are looked at. Above 31 it would find most, which is not what an audit promises.
    """
    assert distance < 2 * (256 // _BAND), distance
    nearest, bits = np.full(len(query_Q4), -1, np.int64), np.full(len(query_Q4), 256, np.int64)
    for query_P, stored_P in _candidates(query_Q4, stored_S4):
        differ_P = np.bitwise_count(query_Q4[query_P] ^ stored_S4[stored_P]).sum(1, dtype=np.int64)
        close = np.flatnonzero(differ_P <= distance)
        # The nearest of each image last, then written over the others; of equally near ones the first stays.
        order = close[np.lexsort((-stored_P[close], -differ_P[close]))]
        better = order[differ_P[order] < bits[query_P[order]]]
        nearest[query_P[better]], bits[query_P[better]] = stored_P[better], differ_P[better]
    return nearest, bits


def _candidates(query_Q4: np.ndarray, stored_S4: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs that agree in 15 bits of some band, some of them several times."""
    query_bands = np.ascontiguousarray(query_Q4).view(np.uint16)
    stored_bands = np.ascontiguousarray(stored_S4).view(np.uint16)
    for band in range(stored_bands.shape[1]):
        codes = stored_bands[:, band]
        order = np.argsort(codes, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=1 << _BAND))])
        for flip in _FLIPS:
            asked = (query_bands[:, band] ^ flip).astype(np.int64)
            yield from _expanded(starts[asked], starts[asked + 1], order)


def _expanded(first_Q: np.ndarray, end_Q: np.ndarray, order_S: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(image asked for, stored image) for the ranges first..end of each, a bounded number at a time."""
    ends = np.cumsum(end_Q - first_Q)
    done = 0
    while done < len(first_Q):
        before = int(ends[done - 1]) if done else 0
        until = max(done + 1, int(np.searchsorted(ends, before + _PAIRS, side="right")))
        counts = end_Q[done:until] - first_Q[done:until]
        query_P = np.repeat(np.arange(done, until), counts)
        if len(query_P):
            within = np.arange(len(query_P)) - np.repeat(ends[done:until] - counts - before, counts)
            yield query_P, order_S[np.repeat(first_Q[done:until], counts) + within]
        done = until
