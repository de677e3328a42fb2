"""Finds the images of one set that nearly equal an image of another set, without comparing all pairs.

Axes: Q query images, S stored images (those searched), A and K the distinct ones among them, P pairs; 4 words of 64
bits each; B bands.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from medvlm.archive.audit.picture import turn_hashes

DISTANCE = 31
"""How many of the 256 bits may differ. Measured on 379,756 pairs of 872 real images (radiographs, fundi, smears,
endoscopy, CT and MR slices): only copies are at or below it, and the closest other pair differs in 50. Copies at half
the size, at 224 x 224, as JPEG of quality 30, 40 grey levels brighter or with 0.6 of the contrast differ in at most
28."""

_BAND = 16
_FLIPS = np.array([0, *(1 << bit for bit in range(_BAND))], np.uint16)
_PAIRS = 1 << 21
"""Pairs compared at a time: about 150 MB."""


def find_near(query_Q4: np.ndarray, stored_S4: np.ndarray, distance: int = DISTANCE) -> tuple[np.ndarray, np.ndarray]:
    """For each query image, the index of a stored image within `distance` and the number of bits that differ; -1 and
    256 where there is none.

    Complete up to 31 bits: 31 differences cannot hit each of 16 bands of 16 bits twice, so at least one band differs in
    at most one bit, and all images that share such a band are compared. Above 31 some would be missed, which an audit
    must not do. The image returned is the first one found, not always the nearest.
    """
    assert distance < 2 * (256 // _BAND), distance
    # Compare duplicates once: a thousand copies of one logo would cost a million comparisons in each band.
    asked_A4, image_of = np.unique(query_Q4, axis=0, return_inverse=True)
    known_K4, first_K = np.unique(stored_S4, axis=0, return_index=True)
    found_A, bits_A = np.full(len(asked_A4), -1, np.int64), np.full(len(asked_A4), 256, np.int64)
    asked_bands, bands = asked_A4.view(np.uint16), _Bands(known_K4)
    for flip in _FLIPS:
        for band in range(asked_bands.shape[1]):
            open_A = np.flatnonzero(found_A < 0)
            for ask_P, known_P in bands.candidates(band, asked_bands[open_A, band] ^ flip):
                ask_P = open_A[ask_P]
                differ_P = np.bitwise_count(asked_A4[ask_P] ^ known_K4[known_P]).sum(1, dtype=np.int64)
                close = np.flatnonzero(differ_P <= distance)
                # An image may be in several pairs. The last assignment wins, so the closest pair goes last.
                close = close[np.lexsort((first_K[known_P[close]], differ_P[close]))][::-1]
                found_A[ask_P[close]], bits_A[ask_P[close]] = first_K[known_P[close]], differ_P[close]
    return found_A[image_of.ravel()], bits_A[image_of.ravel()]


def find_turned(query_Q4: np.ndarray, stored_S4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As find_near(), for pictures that are mirrored, rotated by multiples of 90 degrees, or both. Of 493,518 pairs of
    994 different real images, none differs in fewer than 56 bits. Takes six times as long: 35 s for 100,000 images
    against 100,000."""
    near_TQ4 = np.array(list(turn_hashes(query_Q4)))
    found, bits = find_near(near_TQ4.reshape(-1, near_TQ4.shape[-1]), stored_S4)
    found_TQ, bits_TQ = found.reshape(near_TQ4.shape[:2]), bits.reshape(near_TQ4.shape[:2])
    best = bits_TQ.argmin(0), np.arange(len(query_Q4))
    return found_TQ[best], bits_TQ[best]


def find_inverted(query_Q4: np.ndarray, stored_S4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As find_near(), for pictures whose brightness is inverted, such as a radiograph once stored as MONOCHROME1 and
    once as MONOCHROME2. Inversion changes the sign of every wave, so every bit flips."""
    return find_near(~query_Q4, stored_S4)


class _Bands:
    """For each band of 16 bits, the images sorted by the value of that band. Takes 8 bytes per image and band."""

    def __init__(self, near_K4: np.ndarray) -> None:
        codes_KB = near_K4.view(np.uint16)
        self._order = [np.argsort(codes, kind="stable") for codes in codes_KB.T]
        self._starts = [
            np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=1 << _BAND))]) for codes in codes_KB.T
        ]

    def candidates(self, band: int, codes_A: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(index into codes_A, image) for every image whose band has this value."""
        starts, codes = self._starts[band], codes_A.astype(np.int64)
        yield from _expand(starts[codes], starts[codes + 1], self._order[band])


def _expand(first_Q: np.ndarray, end_Q: np.ndarray, order_S: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(query image, stored image) for the range first..end of each query, in batches of about _PAIRS."""
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
