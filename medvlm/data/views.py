"""Turns stored media into the 8-bit pictures that a pretrained model's processor takes: whole films, and slices of
volumes and videos."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from medvlm.core.config import Config
from medvlm.core.contracts import Preprocess
from medvlm.core.errors import DataError
from medvlm.core.sample import Affine, Medium
from medvlm.data.transforms import to_pictures

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Plane -> the axis of RAS space perpendicular to it, along which its slices are ordered."""


class Views(Config):
    """How media of one kind are shown. The same in training, evaluation and an exported model."""

    window: tuple[float, float] | None = None
    """(low, high): stored intensities that become black and white. None: 8 bits unchanged, 16 bits by their full
    range."""
    windows: tuple[tuple[float, float], ...] = ()
    """Three windows of a grey medium as red, green and blue."""
    percentiles: tuple[float, float] | None = None
    """Percentiles that define the window of each medium, for arbitrary units (MR)."""
    plane: Literal["stored", "axial", "coronal", "sagittal"] = "stored"
    """Slices of a volume; `stored` are those along its first axis. The others need an affine, and are oriented as
    radiologists view them: axial and coronal with the patient's right on the left, sagittal with the front on the left,
    the head on top. Axial slices go from the feet to the head."""
    sampling: Literal["uniform", "stride"] = "uniform"
    """`uniform`: slices at equal distances over the whole volume; `stride`: one every `stride_mm`, around the
    middle."""
    stride_mm: float | None = Field(None, gt=0)
    max_slices: int = Field(16, gt=0)
    max_tokens: int = Field(0, ge=0)
    """Maximum number of image tokens per medium in the language model, 0 for no limit. Fewer slices are shown if there
    would be more."""

    video_fps: float = Field(0, ge=0, allow_inf_nan=False, exclude_if=lambda fps: not fps)
    """Shows media of this kind as a video, with the family's own tokens and times of frames, and not as pictures. It is
    the rate of the stored frames, per second (`video.fps` of the card); up to `max_slices` of them are shown."""

    @model_validator(mode="after")
    def _fits(self) -> Views:
        if self.video_fps and (self.plane != "stored" or self.sampling != "uniform" or self.max_tokens):
            raise ValueError(
                "video_fps shows frames as stored, at equal distances; remove plane, sampling or max_tokens"
            )
        if (self.sampling == "stride") != (self.stride_mm is not None):
            raise ValueError("stride_mm and `sampling: stride` need each other; give both or neither")
        if self.windows and len(self.windows) != 3:
            raise ValueError(f"windows are shown as red, green and blue; expected three, found {len(self.windows)}")
        if sum((self.window is not None, bool(self.windows), self.percentiles is not None)) > 1:
            raise ValueError("more than one of window, windows and percentiles; expected one")
        return self

    @property
    def bands(self) -> Preprocess:
        """The window settings, as the transforms read them."""
        return Preprocess(size=(1, 1), window=self.window, windows=self.windows, percentiles=self.percentiles)


@dataclass(frozen=True)
class Clip:
    """Some frames of a video. frames: uint8 [H, W, 3]. indices: of these among all `total` stored frames, of which
    there are `fps` per second."""

    frames: tuple[np.ndarray, ...]
    indices: tuple[int, ...]
    total: int
    fps: float


def make_clip(array: np.ndarray, medium: Medium, views: Views) -> Clip:
    """Up to `max_slices` frames at equal distances."""
    shown = to_pictures(array, views.bands, medium)
    indices = _choose_slices(len(shown), views, None, views.max_slices, medium.member)
    frames = tuple(np.ascontiguousarray(shown[i]) for i in indices)
    return Clip(frames, tuple(indices), len(shown), views.video_fps)


def make_pictures(array: np.ndarray, medium: Medium, views: Views, most: int | None = None) -> list[np.ndarray]:
    """Pictures uint8 [H, W, 3]: one for a film, the slices of a volume or the frames of a video in their order. most:
    another limit, as well as max_slices.

    Raises DataError if a plane or a stride needs an affine or spacing that the medium lacks.
    """
    shown = to_pictures(array, views.bands, medium)
    if len(medium.size) == 2:
        return [shown]
    spacing_mm = medium.spacing_mm
    if views.plane != "stored":
        if medium.affine is None:
            raise DataError(
                f"{medium.member}: has no affine, which views.plane: {views.plane} needs; use plane: stored"
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


def list_slices(medium: Medium, views: Views, pictures: int) -> tuple[int, ...]:
    """The stored slices of a volume that so many pictures show. None of a film."""
    if len(medium.size) == 2:
        return ()
    spacing_mm = medium.spacing_mm[0] if medium.spacing_mm else None
    return tuple(_choose_slices(medium.size[0], views, spacing_mm, min(pictures, views.max_slices), medium.member))


def _choose_slices(depth: int, views: Views, slice_mm: float | None, limit: int, member: str) -> list[int]:
    """`uniform`: the middle slice of each of equal parts. `stride`: slices at a fixed distance around the middle one,
    without the outermost if there are more than the limit."""
    if views.sampling == "uniform":
        count = min(depth, limit)
        return [int((i + 0.5) * depth / count) for i in range(count)]
    if slice_mm is None:
        raise DataError(f"{member}: has no slice spacing, which views.sampling: stride needs; use sampling: uniform")
    assert views.stride_mm is not None
    step, middle = max(views.stride_mm / slice_mm, 1.0), (depth - 1) / 2
    reach = math.floor(middle / step)
    kept = [int(middle + k * step + 0.5) for k in range(-reach, reach + 1)]
    drop = max(len(kept) - limit, 0)
    return kept[drop // 2 : len(kept) - (drop - drop // 2)]


def _orient(volume: np.ndarray, affine: Affine, along: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """Slices along an axis of RAS space, oriented as radiologists view them, and mm per voxel of the new axes. Oblique
    axes are assigned to the nearest."""
    matrix = np.array(affine)[:, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    share = np.abs(matrix / spacing)
    axis_of: dict[int, int] = {}  # RAS axis -> stored axis, the clearest first
    for flat in np.argsort(-share, axis=None):
        ras, stored = divmod(int(flat), 3)
        if ras not in axis_of and stored not in axis_of.values():
            axis_of[ras] = stored
    # Rows go down from head to feet or from front to back; columns go right from the patient's right to the left, or
    # from front to back.
    rows, columns = {2: (1, 0), 1: (2, 0), 0: (2, 1)}[along]
    order = (along, rows, columns)
    # The sign of the RAS axis along each new axis. Axial: rows from front to back are -A, columns from the patient's
    # right to the left are -R.
    towards = {along: 1.0, rows: -1.0, columns: -1.0}
    turned = np.moveaxis(volume, [axis_of[ras] for ras in order], [0, 1, 2])
    for place, ras in enumerate(order):
        if np.sign(matrix[ras, axis_of[ras]]) != towards[ras]:
            turned = np.flip(turned, place)
    return turned, tuple(float(spacing[axis_of[ras]]) for ras in order)
