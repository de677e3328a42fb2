"""Masks as members of a shard: `0.mask.png` or `0.mask.npy` is stored next to the medium `0.png`.

A mask is a label map, [H, W] or [D, H, W], where 0 means no label. Overlapping labels are stored as [K, *size] of 0 and
1. Further masks of the same medium have a name of their own: `0.mask.second.png`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np

from medvlm.core.errors import DataError
from medvlm.io.images import decode, encode_npy, encode_png, suffix_of

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


def require_growing_palette(data: bytes, shades: np.ndarray) -> None:
    """Raises DataError for a mask whose palette contradicts its numbers: whether a pixel is marked would depend on
    whether its number or its shade is read. shades: of the picture, from decode()."""
    from PIL import Image

    if suffix_of(data) not in ("png", "gif", "bmp"):
        return
    with Image.open(io.BytesIO(data)) as image:
        if image.mode != "P":
            return
        numbers = np.array(image)
    used, first = np.unique(numbers, return_index=True)
    shade_of = shades.reshape(-1)[first].astype(np.int32)
    if (np.diff(shade_of) <= 0).any() or ((used == 0) != (shade_of == 0)).any():
        raise DataError(
            "its mask has a palette whose shades do not grow with its numbers (white for 0, or the same black twice),"
            " so what it marks is not certain; save it as grey values"
        )
