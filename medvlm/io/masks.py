"""Masks as members of a shard: `0.mask.png` or `0.mask.npy` is stored next to the medium `0.png`.

A mask is a label map, [H, W] or [D, H, W], where 0 means no label. Overlapping labels are stored as [K, *size] of 0 and
1. Further masks of the same medium have a name of their own: `0.mask.second.png`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from medvlm.core.errors import DataError
from medvlm.io.images import decode, encode_npy, encode_png

MASK = "mask"


def is_mask(member: str) -> bool:
    return member.split(".")[1:2] == [MASK]


def masks_of(medium: str, members: Iterable[str]) -> list[str]:
    """The member names of a medium's masks. medium: its member name."""
    stem = medium.partition(".")[0]
    return [member for member in members if is_mask(member) and member.partition(".")[0] == stem]


def encode_mask(mask: np.ndarray, member: str) -> tuple[str, bytes]:
    """Suffix and bytes of a mask: PNG for a 2D label map, else .npy, in the smallest integer type that fits.

    Raises DataError for labels that are not whole numbers from 0 to 65535.
    """
    if mask.dtype.kind not in "biu" and not (np.isfinite(mask).all() and (mask == np.rint(mask)).all()):
        raise DataError(f"{member}: some values are not whole numbers; expected a label for each pixel")
    low, high = (int(mask.min()), int(mask.max())) if mask.size else (0, 0)
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise DataError(f"{member}: has labels from {low} to {high}; expected 0 to 65535")
    labels = mask.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)
    return ("png", encode_png(labels)) if labels.ndim == 2 else ("npy", encode_npy(labels))


def decode_mask(data: bytes, member: str) -> np.ndarray:
    """The label map of a member. Raises DataError for damaged bytes, and for an array that is not a label map."""
    mask = decode(data, member)
    if mask.dtype.kind not in "bu" or (data[:1] == b"\x89" and mask.ndim != 2):
        raise DataError(
            f"{member}: {mask.dtype} of shape {mask.shape} is not a mask; expected labels as whole numbers from 0"
        )
    return mask
