"""Hashes that find an image again: one of its exact pixels, and a perceptual one of 256 bits that hardly changes when
the image is resized, re-compressed or made brighter.

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
    """exact: 64 bits over all pixels; the same pixels give the same hash in any file format. near: uint64 [4], compared
    bit by bit; None for an image with a single value, since all such images look the same."""

    exact: int
    near: np.ndarray | None


def hash_picture(pixels: np.ndarray, num_axes: int) -> PictureHash:
    """pixels: [H, W], [D, H, W] or with a last axis C. num_axes: how many of its axes are space or time, 2 or 3.

    Source of `near`: the perceptual hash by DCT (Zauner 2010, section 3.2.1; `phash` of the library imagehash) with 256
    bits instead of 64: a bit says whether one of the 16 x 16 lowest frequencies is above their median. With 64 bits,
    chest radiographs of different patients differ in as few as 6, no more than a radiograph and its darker copy
    (docs/log.md). Mirrored and rotated copies have other hashes: turn_hashes() computes them. A volume is projected
    along its last two axes (means), because along the first axis all heads look alike.
    """
    if min(pixels.shape, default=0) == 0:
        raise DataError(f"an image of shape {list(pixels.shape)} has no pixels")
        # sha256 is twice as fast as blake2b on a CPU with SHA instructions.
    exact = hashlib.sha256(f"{pixels.dtype.str} {pixels.shape}".encode())
    exact.update(np.ascontiguousarray(pixels).data)
    key = int.from_bytes(exact.digest()[:8], "big")
    if pixels.min() == pixels.max():
        return PictureHash(key, None)
    grey = _sum_colours(pixels) if pixels.ndim == num_axes + 1 else pixels.astype(np.float32)
    flat_HW = np.concatenate([grey.mean(1), grey.mean(2)], axis=1) if grey.ndim == 3 else grey
    return PictureHash(key, _bits(flat_HW))


def turn_hashes(near_N4: np.ndarray) -> Iterator[np.ndarray]:
    """The `near` hashes that the pictures would have when mirrored, rotated by multiples of 90 degrees, or both: yields
    seven arrays [N, 4].

    Mirroring flips the sign of every other wave, transposing swaps their axes; the median hardly changes. For 994 real
    images, 99.8 % of the mirrored copies differ in at most 31 bits from this, also at JPEG quality 30 or 224 x 224
    pixels. Has no meaning for volumes."""
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
    """Sum over the colours; five times as fast as numpy's sum over a short last axis."""
    grey = pixels[..., 0].astype(np.float32)
    for colour in range(1, pixels.shape[-1]):
        grey += pixels[..., colour]
    return grey


def _bits(grey_HW: np.ndarray) -> np.ndarray:
    from PIL import Image

    shrunk = Image.fromarray(np.ascontiguousarray(grey_HW)).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX)
    waves = _cosines() @ np.asarray(shrunk) @ _cosines().T
    above = waves > np.median(waves)
    # Stored by diagonals, so that each band of 16 bits (the key of the search) mixes low and high frequencies: the low
    # ones alone are similar in all chest radiographs.
    rows, shift = np.arange(_WAVES)[:, None], np.arange(_WAVES)[None]
    diagonals = above[rows, (shift - rows) % _WAVES].T
    return np.packbits(np.ascontiguousarray(diagonals).ravel()).view(np.uint64)


@cache
def _cosines() -> np.ndarray:
    """The 16 lowest waves of the DCT-II over 64 pixels, [16, 64]; their scale does not matter here."""
    wave, place = np.arange(_WAVES)[:, None], np.arange(_SIDE_PX)[None]
    return np.cos(np.pi * (2 * place + 1) * wave / (2 * _SIDE_PX)).astype(np.float32)
