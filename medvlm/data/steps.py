"""Resizes, crops and pads stored pixels to an encoder's input. Pixels, masks and boxes go through the same steps.

Axes: D H W depth, height, width, C channels, K masks that overlap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import pad

from medvlm.core.contracts import Preprocess
from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas, resize
from medvlm.core.sample import Medium

MAX_RESAMPLED = 1 << 28
"""Most pixels of an image or volume after resampling to a spacing: 1 GiB as float32."""


@dataclass(frozen=True)
class Steps:
    """Stored pixels are resized to `resized`; then `before` pixels are added at the start of each axis (negative:
    cropped), and the end is padded or cropped to `size`."""

    resized: tuple[int, ...]
    before: tuple[int, ...]
    size: tuple[int, ...]
    canvas: Canvas


def plan_steps(
    size: tuple[int, ...],
    stored_mm: tuple[float, ...] | None,
    preprocess: Preprocess,
    member: str,
    whole: bool = False,
) -> Steps:
    """Steps that resize to the declared spacing or size, then centre. whole: keeps what is larger than the input, in
    place of cropping it. Raises DataError if a declared spacing is not possible."""
    if preprocess.spacing_mm is not None:
        if stored_mm is None:
            raise DataError(
                f"{member}: has no spacing, which preprocess.spacing_mm needs; set it in the card, or remove spacing_mm"
            )
        new = tuple(
            max(round(n * mm / wanted), 1) for n, mm, wanted in zip(size, stored_mm, preprocess.spacing_mm, strict=True)
        )
        if math.prod(new) > MAX_RESAMPLED:
            raise DataError(
                f"{member}: {size} at {stored_mm} mm become {new}, more than {MAX_RESAMPLED:,} pixels; choose a coarser"
                " preprocess.spacing_mm"
            )
    elif preprocess.fit == "crop":
        short, edge = min(size), max(preprocess.size)
        new = tuple(int(edge * n / short) for n in size)
    else:
        new = preprocess.size
    final = tuple(map(max, new, preprocess.size)) if whole else preprocess.size
    before = tuple(
        (wanted - n) // 2 if wanted > n else -((n - wanted) // 2) for n, wanted in zip(new, final, strict=True)
    )
    centred = Canvas(final, (1.0,) * len(size), tuple(map(float, before)))
    return Steps(new, before, final, resize(size, new).then(centred))


def deepen(medium: Medium, preprocess: Preprocess) -> Medium:
    """A picture as a volume of one slice, if the encoder takes volumes: it is repeated along the depth, so that one
    encoder sees pictures, frames and volumes. Other media as they are.

    Raises DataError for an encoder with a spacing, since a picture has no depth in mm."""
    if not len(medium.size) == 2 < len(preprocess.size):
        return medium
    if preprocess.spacing_mm is not None:
        raise DataError(
            f"{medium.member}: a picture has no depth in mm, which preprocess.spacing_mm needs; remove spacing_mm, or"
            " let another encoder serve pictures"
        )
    return replace(medium, size=(1, *medium.size), spacing_mm=None)


def place(resized: torch.Tensor, steps: Steps) -> torch.Tensor:
    """Crops the last axes to their centre, and pads smaller ones with black (0)."""
    if steps.resized == steps.size:
        return resized
    ends = [(b, wanted - n - b) for n, b, wanted in zip(steps.resized, steps.before, steps.size, strict=True)]
    return pad(resized, [n for pair in reversed(ends) for n in pair]).contiguous()


def place_mask(mask: np.ndarray, member: str, medium: Medium, preprocess: Preprocess) -> np.ndarray:
    """A mask of the medium on the canvas of its pixels, by nearest neighbour, padded with 0.

    mask: numbers [*size], or [K, *size] for masks that overlap. With `tiles`, the mask is that of the whole film.
    Raises DataError, naming the member, for a mask whose size differs from the medium's.
    """
    axes = len(medium.size)
    if mask.shape[-axes:] != medium.size or mask.ndim not in (axes, axes + 1):
        raise DataError(
            f"{member}: a mask of shape {mask.shape}, but {medium.member} has {medium.size} ({medium.kind}); pack the"
            " data set again"
        )
    if (deep := deepen(medium, preprocess)) is not medium:
        medium, axes, mask = deep, 3, mask[..., None, :, :]
    steps = plan_steps(medium.size, medium.spacing_mm, preprocess, member)
    for axis, (stored, new) in enumerate(zip(medium.size, steps.resized, strict=True), mask.ndim - axes):
        mask = mask.take(nearest(stored, new), axis)
    for axis, (before, wanted) in enumerate(zip(steps.before, steps.size, strict=True), mask.ndim - axes):
        mask = _fit(mask, axis, before, wanted)
    return mask


def nearest(stored: int, new: int) -> np.ndarray:
    """For each of `new` pixels, the stored pixel that contains its centre; the latter of two if the centre is between
    them (torch's `nearest-exact`). Computed in whole numbers, because rounding would move such a pixel."""
    return (2 * np.arange(new) + 1) * stored // (2 * new)


def _fit(mask: np.ndarray, axis: int, before: int, wanted: int) -> np.ndarray:
    """Adds `before` zeros at the start of an axis (negative: crops), and pads or crops to `wanted` pixels."""
    at = np.arange(wanted) - before
    inside = (at >= 0) & (at < mask.shape[axis])
    found = mask.take(np.where(inside, at, 0), axis)
    return found if inside.all() else found * inside.reshape([-1 if i == axis else 1 for i in range(mask.ndim)])
