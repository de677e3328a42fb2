"""Stored media to the 8-bit pictures that a ready model's processor takes: films whole, volumes and videos as
slices."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from medvlm.core.config import Config
from medvlm.core.contracts import Preprocess
from medvlm.core.errors import DataError
from medvlm.core.sample import Affine, Medium
from medvlm.data.transforms import to_pictures

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis of RAS space that a plane's slices follow each other along."""


class Views(Config):
    """How media of one kind are shown. The same in training, evaluation and beside an exported model."""

    window: tuple[float, float] | None = None
    """(low, high) of stored intensity that become black and white; None: 8-bit as it is, 16-bit by its full range."""
    windows: tuple[tuple[float, float], ...] = ()
    """Three windows of a grey medium as red, green and blue."""
    percentiles: tuple[float, float] | None = None
    """Window of each medium by itself, for units without a meaning (MR)."""
    plane: Literal["stored", "axial", "coronal", "sagittal"] = "stored"
    """Slices of a volume; `stored` are those along its first axis. The others need an affine, and lie as a radiologist
    sees them: axial and coronal with the patient's right on the left, sagittal with the front on the left, the head on
    top; axial slices go from the feet to the head."""
    sampling: Literal["uniform", "stride"] = "uniform"
    """`uniform`: slices at equal distances over the whole volume; `stride`: one every `stride_mm`, around the
    middle."""
    stride_mm: float | None = Field(None, gt=0)
    max_slices: int = Field(16, gt=0)
    max_tokens: int = Field(0, ge=0)
    """Image tokens that one medium may take in the language model, 0 for no limit: fewer slices are shown where it
    would take more."""

    @model_validator(mode="after")
    def _fits(self) -> Views:
        if (self.sampling == "stride") != (self.stride_mm is not None):
            raise ValueError("stride_mm goes with `sampling: stride`; give both or neither")
        if self.windows and len(self.windows) != 3:
            raise ValueError(f"windows are shown as red, green and blue; expected three, found {len(self.windows)}")
        if sum((self.window is not None, bool(self.windows), self.percentiles is not None)) > 1:
            raise ValueError("more than one of window, windows and percentiles; expected one")
        return self

    @property
    def bands(self) -> Preprocess:
        """The window settings, as the transforms read them."""
        return Preprocess(size=(1, 1), window=self.window, windows=self.windows, percentiles=self.percentiles)


def pictures(array: np.ndarray, medium: Medium, views: Views, most: int | None = None) -> list[np.ndarray]:
    """uint8 [H, W, 3] each: one for a film, the slices of a volume or the frames of a video in their order. most: a
    limit beside max_slices.

    Raises DataError where a plane or a stride is asked for and the medium does not say how it lies.
    """
    shown = to_pictures(array, views.bands, medium)
    if len(medium.size) == 2:
        return [shown]
    spacing_mm = medium.spacing_mm
    if views.plane != "stored":
        if medium.affine is None:
            raise DataError(
                f"{medium.member}: does not say how it lies in the patient, and views.plane: {views.plane} needs that;"
                " use plane: stored"
            )
        shown, spacing_mm = _orient(shown, medium.affine, PLANES[views.plane])
    limit = min(views.max_slices, most or views.max_slices)
    return [
        np.ascontiguousarray(shown[i])
        for i in _choose_slices(len(shown), views, spacing_mm[0] if spacing_mm else None, limit, medium.member)
    ]


def is_flat(medium: Medium, views: Views) -> bool:
    """Whether pictures keep the last two stored axes, so that boxes can be placed on them."""
    return len(medium.size) == 2 or views.plane == "stored"


def _choose_slices(depth: int, views: Views, slice_mm: float | None, limit: int, member: str) -> list[int]:
    """The middle of each of equal parts; or steps of a distance around the middle slice, the outer ones left out above
    the limit."""
    if views.sampling == "uniform":
        count = min(depth, limit)
        return [int((i + 0.5) * depth / count) for i in range(count)]
    if slice_mm is None:
        raise DataError(
            f"{member}: does not say the distance of its slices, and views.sampling: stride needs it; use sampling:"
            " uniform"
        )
    assert views.stride_mm is not None
    step, middle = max(views.stride_mm / slice_mm, 1.0), (depth - 1) / 2
    reach = math.floor(middle / step)
    kept = [int(middle + k * step + 0.5) for k in range(-reach, reach + 1)]
    drop = max(len(kept) - limit, 0)
    return kept[drop // 2 : len(kept) - (drop - drop // 2)]


def _orient(volume: np.ndarray, affine: Affine, along: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """Slices along an axis of RAS space, as a radiologist sees them, and mm per voxel of the new axes. Oblique axes go
    to the nearest."""
    matrix = np.array(affine)[:, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    share = np.abs(matrix / spacing)
    axis_of: dict[int, int] = {}  # RAS axis -> stored axis, the clearest first
    for flat in np.argsort(-share, axis=None):
        ras, stored = divmod(int(flat), 3)
        if ras not in axis_of and stored not in axis_of.values():
            axis_of[ras] = stored
    # Rows downwards, columns to the right: head to feet or front to back; right to left of the patient, or front to
    # back.
    rows, columns = {2: (1, 0), 1: (2, 0), 0: (2, 1)}[along]
    order = (along, rows, columns)
    towards = {
        along: 1.0,
        rows: -1.0,
        columns: -1.0,
    }  # axial: y downwards from front to back is -A; columns from the right to the left is -R
    turned = np.moveaxis(volume, [axis_of[ras] for ras in order], [0, 1, 2])
    for place, ras in enumerate(order):
        if np.sign(matrix[ras, axis_of[ras]]) != towards[ras]:
            turned = np.flip(turned, place)
    return turned, tuple(float(spacing[axis_of[ras]]) for ras in order)
