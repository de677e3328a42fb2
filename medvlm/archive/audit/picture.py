"""What is left of an image for finding it again: a hash of its pixels, and 256 bits that hardly change when it is
resized, re-compressed or made brighter.

Axes: H W height, width; D depth or frames; C = 3 colours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from medvlm.core.errors import DataError

BITS = 256
WORDS = BITS // 64
_SIDE_PX, _WAVES = 64, 16


@dataclass(frozen=True)
class PictureHash:
    """exact: 64 bits over all pixels, equal for the same pixels in whatever file. near: uint64 [4], to be compared bit
    by bit; None for an image of one value, which looks like every other such image."""

    exact: int
    near: np.ndarray | None


def hash_picture(pixels: np.ndarray, num_axes: int) -> PictureHash:
    """pixels: [H, W], [D, H, W] or with a last axis C. num_axes: how many of its axes lie in space or time, 2 or 3.

    Source of `near`: the perceptual hash by DCT (Zauner 2010, section 3.2.1; `phash` of the library imagehash) with 256
    bits in the place of 64: a bit says whether one of the 16 x 16 lowest frequencies is above their median. Of 64 bits,
    chest films of different patients differ in as few as 6, as many as one film and its darker copy (docs/log.md).
    Mirrored and turned copies look different: turn_hashes() gives what they look like. A volume is seen from two sides
    (means over its last two axes), because from the third side one head is like the next.
    """
    if min(pixels.shape, default=0) == 0:
        raise DataError(f"an image of shape {list(pixels.shape)} has no pixels")
    exact = hashlib.sha256(
        f"{pixels.dtype.str} {pixels.shape}".encode()
    )  # twice as fast as blake2b where the processor knows it
    exact.update(np.ascontiguousarray(pixels).data)
    key = int.from_bytes(exact.digest()[:8], "big")
    if pixels.min() == pixels.max():
        return PictureHash(key, None)
    grey = _sum_colours(pixels) if pixels.ndim == num_axes + 1 else pixels.astype(np.float32)
    flat_HW = np.concatenate([grey.mean(1), grey.mean(2)], axis=1) if grey.ndim == 3 else grey
    return PictureHash(key, _bits(flat_HW))


def turn_hashes(near_N4: np.ndarray) -> Iterator[np.ndarray]:
    """What `near` of pictures becomes when they are mirrored, turned by quarters, or both: seven times [N, 4].

    A mirror changes the sign of every other wave, a transposition swaps their axes; the median hardly moves. Of 994
    real images 99.8 % of the mirrored copies differ in at most 31 bits from this, also at JPEG quality 30 or 224 x 224
    pixels. Means nothing for volumes."""
    bits_NSR = np.unpackbits(np.ascontiguousarray(near_N4).view(np.uint8), axis=1).reshape(-1, _WAVES, _WAVES)
    diagonal, row = np.arange(_WAVES)[:, None], np.arange(_WAVES)[None]
    column = (diagonal - row) % _WAVES  # see _bits(): bit r of diagonal s is that of wave r down and s - r across
    for stands, flips in (
        (bits_NSR, (column, row, row + column)),
        (bits_NSR[:, diagonal, column], (0 * row, column, row, row + column)),
    ):
        for flip in flips:
            yield (
                np.packbits(np.ascontiguousarray(stands ^ (flip & 1)).astype(np.uint8).ravel())
                .view(np.uint64)
                .reshape(-1, WORDS)
            )


def _sum_colours(pixels: np.ndarray) -> np.ndarray:
    """Over the colours; five times as fast as numpy's sum over a short last axis."""
    grey = pixels[..., 0].astype(np.float32)
    for colour in range(1, pixels.shape[-1]):
        grey += pixels[..., colour]
    return grey


def _bits(grey_HW: np.ndarray) -> np.ndarray:
    from PIL import Image

    shrunk = Image.fromarray(np.ascontiguousarray(grey_HW)).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX)
    waves = _cosines() @ np.asarray(shrunk) @ _cosines().T
    above = waves > np.median(waves)
    # In diagonals, so that each 16 bits that are searched by hold low and high frequencies: low ones alone are alike in
    # all chest films.
    rows, shift = np.arange(_WAVES)[:, None], np.arange(_WAVES)[None]
    diagonals = above[rows, (shift - rows) % _WAVES].T
    return np.packbits(np.ascontiguousarray(diagonals).ravel()).view(np.uint64)


@cache
def _cosines() -> np.ndarray:
    """The 16 lowest waves of the DCT-II over 64 pixels, [16, 64]; their scale does not matter here."""
    wave, place = np.arange(_WAVES)[:, None], np.arange(_SIDE_PX)[None]
    return np.cos(np.pi * (2 * place + 1) * wave / (2 * _SIDE_PX)).astype(np.float32)
