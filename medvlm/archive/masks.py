"""Masks that lie as image files beside an image: what they mark, as boxes with sizes, and how much of the image that
is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from medvlm.archive.outlines import SUFFIX, draw_outlines
from medvlm.archive.tables.columns import Row, columns_in
from medvlm.core.config import Config
from medvlm.core.errors import DataError
from medvlm.core.sample import Affine, Box
from medvlm.io import nifti
from medvlm.io.images import decode
from medvlm.io.masks import require_growing_palette
from medvlm.io.nifti_header import NiftiOptions

# Axes: H W height, width of the image in pixels.

Holds = Literal["object", "parts", "labels", "area"]


class MaskFiles(Config):
    of: str
    """The class that they mark."""
    files: str
    """Path under the root with the image's `{group}`s in it; * stands for any name, where there are several files."""
    holds: Holds
    """What one file shows: one `object`, several in `parts` that do not touch, several as `labels` (one value each), or
    a tissue whose `area` alone counts."""
    threshold: int = Field(0, ge=0)
    """Values above it are marked; 127 for masks that went through JPEG."""
    unmarked: tuple[int, ...] = ()
    """Values that mark nothing although they are above the threshold, e.g. [255] for a void border around objects."""
    second: str = Field("", exclude_if=lambda second: not second)
    """As `files`, of a second reader. Where the masks are kept, evaluation shows how well the two agree."""
    min_px: int = Field(1, ge=1)
    """Smaller objects are left out: specks of JPEG noise."""
    named: str = Field("", exclude_if=lambda named: not named)
    """Of outlines in .geojson, which of them: `properties.classification.name`. With `holds: labels` each is an
    object."""
    size: tuple[int, int] | None = Field(None, exclude_if=lambda size: size is None)
    """Height and width of the image, which outlines do not tell."""

    @model_validator(mode="after")
    def _outlines_have_a_size(self) -> MaskFiles:
        if self.files.lower().endswith(SUFFIX) != bool(self.named) or bool(self.named) != bool(self.size):
            raise ValueError(f"`named` and `size` are for outlines in {SUFFIX}, which need both")
        return self


@dataclass
class Marked:
    """objects: class and box. extents: class -> bool [H, W] or [D, H, W], what any of its masks marks. left_out:
    objects, by reason. affine: where NIfTI masks lie in the patient, as in Medium. numbered: for each pixel the number
    of its object among `objects`, from 1, 0 for none; of objects that overlap, the first. second: like extents, of a
    second reader, for the classes that have one."""

    objects: list[tuple[str, Box]] = field(default_factory=list)
    extents: dict[str, np.ndarray] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    affine: Affine | None = None
    numbered: np.ndarray | None = None
    second: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, ...]:
        """(height, width), or (depth, height, width) of a volume; zeros where there are no masks."""
        shapes = [extent.shape for extent in self.extents.values()]
        return shapes[0] if shapes else (0, 0)

    def list_labels(self, classes: Sequence[str]) -> np.ndarray:
        """[H, W], which class and which object a pixel is of, as task `mask` has it."""
        assert self.numbered is not None
        label_of = np.zeros(len(self.objects) + 1, np.int64)
        for number, name in enumerate(classes):
            own = [n for n, (of, _) in enumerate(self.objects, 1) if of == name]
            label_of[own] = 1 + number + len(classes) * np.arange(len(own))
        labels: np.ndarray = label_of[self.numbered]
        return labels


def read_masks(masks: tuple[MaskFiles, ...], root: Path, row: Row, options: NiftiOptions = NiftiOptions()) -> Marked:
    """row: what the `{group}`s stand for. Raises DataError for masks that are not there, damaged, coloured, or of
    several sizes."""
    marked = Marked()
    for each in masks:
        for path in _paths(each, each.files, root, row):
            mask_HW = _read(path, each, marked, options)
            marked.extents[each.of] = marked.extents.get(each.of, False) | (mask_HW > each.threshold)
            if marked.numbered is None:
                marked.numbered = np.zeros(mask_HW.shape, np.int32)
            if each.holds != "area":
                _add_objects(marked, mask_HW, each)
        for path in _paths(each, each.second, root, row) if each.second else ():
            mask_HW = _read(path, each, marked, options)
            marked.second[each.of] = marked.second.get(each.of, False) | (mask_HW > each.threshold)
    return marked


def _read(path: Path, masks: MaskFiles, marked: Marked, options: NiftiOptions) -> np.ndarray:
    if path.name.lower().endswith(nifti.SUFFIXES):
        mask_HW, marked.affine = _volume(path, masks, options)
    elif masks.size is not None:
        mask_HW = draw_outlines(path, masks.named, masks.size)
    else:
        mask_HW = _grey(path, masks.of)
    if marked.extents and mask_HW.shape != marked.size:
        raise DataError("its masks differ in size")
    return np.where(np.isin(mask_HW, masks.unmarked), 0, mask_HW) if masks.unmarked else mask_HW


def objects_in(mask_HW: np.ndarray, holds: Holds, threshold: int = 0) -> list[tuple[Box, int]]:
    """Box and number of pixels of each object. Parts that touch at a corner are one.

    mask_HW: integers. The box of one pixel at (x, y) is (x, y, x + 1, y + 1).
    """
    return [(box, num_px) for box, num_px, _ in _list_objects(number_objects(mask_HW, holds, threshold))]


def number_objects(mask_HW: np.ndarray, holds: Holds, threshold: int = 0) -> np.ndarray:
    """The number of the object of each pixel, from 1, 0 for none."""
    from scipy import ndimage

    marked_HW = mask_HW > threshold
    if holds in ("object", "area"):
        return marked_HW.astype(np.int32)
    if holds == "labels":
        values, found_HW = np.unique(np.where(marked_HW, mask_HW, 0), return_inverse=True)
        return found_HW.reshape(mask_HW.shape) + (0 if values[0] == 0 else 1)
    numbers: np.ndarray = ndimage.label(marked_HW, structure=np.ones((3, 3)))[0]
    return numbers


def _list_objects(numbers_HW: np.ndarray) -> list[tuple[Box, int, tuple[slice, slice]]]:
    """Box, number of pixels and slices of each object, by its number."""
    from scipy import ndimage

    sizes_px = np.bincount(numbers_HW.ravel())[1:]
    return [
        ((float(x.start), float(y.start), float(x.stop), float(y.stop)), int(n), (y, x))
        for (y, x), n in zip(ndimage.find_objects(numbers_HW), sizes_px, strict=True)
    ]


def percent(extent_HW: np.ndarray) -> int:
    """Of the image, to the nearest whole number."""
    return int(np.floor(100 * extent_HW.mean() + 0.5))


def _add_objects(marked: Marked, mask_HW: np.ndarray, masks: MaskFiles) -> None:
    numbers_HW = number_objects(mask_HW, masks.holds, masks.threshold)
    found = _list_objects(numbers_HW)
    if not found and masks.holds == "object":
        marked.left_out["mask without a marked pixel"] += 1
    assert marked.numbered is not None
    for number, (box, num_px, at) in enumerate(found, 1):
        if num_px >= masks.min_px:
            marked.objects.append((masks.of, box))
            within = marked.numbered[at]
            within[(numbers_HW[at] == number) & (within == 0)] = len(marked.objects)
        else:
            marked.left_out["object of less than min_px pixels"] += 1


def _paths(masks: MaskFiles, pattern: str, root: Path, row: Row) -> list[Path]:
    for name in columns_in(pattern):
        pattern = pattern.replace(f"{{{name}}}", re.sub(r"([*?[])", r"[\1]", row[name]))
    if ".." in Path(pattern).parts or Path(pattern).is_absolute():
        raise DataError("the path of its masks leads out of the root; paths are relative to the root")
    found = sorted(root.glob(pattern))
    if not found:
        raise DataError(f"has no mask of {masks.of}")
    return found


def _volume(path: Path, masks: MaskFiles, options: NiftiOptions) -> tuple[np.ndarray, Affine | None]:
    if masks.holds != "area":
        raise DataError(f"a mask of {masks.of} is a volume, in which nothing is counted; expected `holds: area`")
    found = nifti.load_nifti(path, options)
    return found.pixels, found.affine


def _grey(path: Path, of: str) -> np.ndarray:
    data = path.read_bytes()
    pixels = decode(data, "its mask")
    if pixels.ndim == 3 and (np.ptp(pixels.astype(np.int32), axis=2) > 16).any():  # JPEG may tint grey a little
        raise DataError(f"a mask of {of} has colours; expected grey values")
    mask_HW: np.ndarray = pixels.max(axis=2) if pixels.ndim == 3 else pixels
    require_growing_palette(data, mask_HW)
    return mask_HW
