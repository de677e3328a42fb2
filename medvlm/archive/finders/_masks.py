"""Which files are masks of which others, by their names, and what the values of masks look like."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvlm.archive.finders._folder import Folder, folder_of, stem_of, suffix_of
from medvlm.core.errors import DataError
from medvlm.io import nifti
from medvlm.io.images import decode
from medvlm.io.nifti_header import NiftiOptions

_MASK = re.compile(
    r"(masks?|labels?|seg|segs|segmentations?|annotations?|gt|groundtruth|ground_truth|manual|1st_manual|contours?"
    r"|labelsTr|lesions?|rois?)(\d*|s|Tr)?",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"(images?|imgs?|img|data|raw|scans?|volumes?|imagesTr|original|frames?)", re.IGNORECASE)
SHARE = 0.8
"""Of the images, at least so many have a mask."""
MAX_READ = 30
"""Masks whose values are looked at."""
MAX_VALUES = 40
"""More values are those of a photograph, or of separate objects."""
EDGE, NEARLY_ALL = 24, 0.95
"""JPEG changes black and white by less than this, except for a few pixels at outlines."""


ANY_PLACE = NiftiOptions(length="unknown", orientation="RAS")
"""Which values there are does not depend on where the voxels are."""


@dataclass(frozen=True)
class Pairs:
    """images: their folder, suffix pattern and what stands around the common name. masks: the same, as a template with
    {name}. of: how many images have one. listed: the images."""

    images: str
    masks: str
    of: int
    listed: tuple[str, ...]
    mask_files: tuple[str, ...]


@dataclass(frozen=True)
class MaskValues:
    """values: all but 0 that occur. is_binary: whether one value, or black and white with rounding, marks one class.
    threshold: for such masks. is_objects: whether each value is an object of its own."""

    values: tuple[int, ...]
    is_binary: bool
    threshold: int
    is_objects: bool


def is_mask_word(name: str) -> bool:
    return _MASK.fullmatch(name) is not None


def find_pairs(folder: Folder, names: Sequence[str]) -> Pairs | None:
    """The folder or suffix of masks that most images have; None if there is none."""
    mask_places: dict[str, list[str]] = {}
    plain: dict[str, list[str]] = {}
    for name in names:
        place = folder_of(name)
        word = next((part for part in reversed(place.split("/")) if is_mask_word(part)), "")
        tail = re.split(r"[_\-. ]", stem_of(name))[-1]
        is_tail = is_mask_word(tail) and len(stem_of(name)) > len(tail) + 1
        (mask_places if word or is_tail else plain).setdefault(place, []).append(name)
    found = [
        pairs
        for place, images in plain.items()
        for mask_place, masks in mask_places.items()
        if (pairs := _pair(place, images, mask_place, masks))
    ]
    return max(found, key=lambda pairs: pairs.of, default=None)


def _pair(place: str, images: list[str], mask_place: str, masks: list[str]) -> Pairs | None:
    """The images and masks of two folders whose names differ by what is before or after a common part."""
    by_stem: dict[str, list[str]] = {}
    for mask in masks:
        by_stem.setdefault(stem_of(mask), []).append(mask)
    stems = {stem_of(image): image for image in images}
    first = sorted(stems)[0]
    tried: Counter[tuple[str, str, str]] = Counter()
    for mask in by_stem:
        if mask.startswith(first):
            tried["", "", mask[len(first) :]] += 1
        elif first.startswith(mask) and re.fullmatch(r"_\d+", first[len(mask) :]):  # nnU-Net: case_0000 and case
            tried["", first[len(mask) :], ""] += 1
        elif mask.endswith(first):
            tried[mask[: -len(first)], "", ""] += 1
        elif (bare := re.sub(r"[_-]?(image|img)$", "", first)) != first and mask.startswith(bare):
            tried["", first[len(bare) :], mask[len(bare) :]] += 1
    best: Pairs | None = None
    for before, after, mask_after in tried:
        got = {
            stem: by_stem[mask]
            for stem in stems
            if stem.endswith(after) and (mask := f"{before}{stem[: len(stem) - len(after)]}{mask_after}") in by_stem
        }
        if len(got) < SHARE * len(stems) or (best is not None and best.of >= len(got)):
            continue
        files = tuple(each[0] for each in got.values())
        suffixes = {suffix_of(name) for name in files}
        ending = suffixes.pop() if len(suffixes) == 1 else ".*"
        under = f"{re.escape(place)}/" if place else ""
        endings = "|".join(sorted({re.escape(suffix_of(stems[stem])) for stem in got}))
        # Beside the images, masks must not be taken for images.
        no_mask = f"(?!{re.escape(before)})" if before and place == mask_place else ""
        no_tail = f"(?<!{re.escape(mask_after)})" if mask_after and place == mask_place else ""
        best = Pairs(
            f"{under}{no_mask}(?P<name>[^/]+?){re.escape(after)}{no_tail}(?i:{endings})",
            f"{mask_place}/{before}{{name}}{mask_after}{ending}".lstrip("/"),
            len(got),
            tuple(stems[stem] for stem in got),
            files,
        )
    return best


def read_values(root: Path, names: Sequence[str]) -> MaskValues:
    """Raises DataError if none of the masks can be read."""
    every: Counter[int] = Counter()
    pixels_of: Counter[int] = Counter()
    read = 0
    for name in names[:: max(1, len(names) // MAX_READ)][:MAX_READ]:
        try:
            pixels = _load(root / name)
        except DataError:
            continue
        read += 1
        found, counts = np.unique(pixels, return_counts=True)
        every.update(int(value) for value in found if value)
        pixels_of.update({int(value): int(count) for value, count in zip(found, counts, strict=True)})
    if not read:
        raise DataError(f"none of the masks, such as {names[0]}, can be read")
    values = tuple(sorted(every))
    near_ends = sum(count for value, count in pixels_of.items() if value <= EDGE or value >= 255 - EDGE)
    is_binary = len(values) <= 1 or (max(values) > 200 and near_ends > NEARLY_ALL * pixels_of.total())
    threshold = 127 if is_binary and values and max(values) > 200 else 0
    # Classes occur in many masks; numbers of objects reach from 1 to a maximum that differs from mask to mask.
    is_objects = not is_binary and (len(values) > MAX_VALUES or every[values[-1]] <= max(1, read // 10) < read)
    return MaskValues(values, is_binary, threshold, is_objects)


def name_class(pairs: Pairs) -> str:
    """A word for what the masks mark, from their folder or suffix; `region` if these say nothing."""
    for part in (*reversed(folder_of(pairs.masks).split("/")), pairs.masks.rpartition("}")[2].partition(".")[0]):
        for word in re.split(r"[_\-. ]", part):
            if len(word) > 2 and not is_mask_word(word) and not _PLAIN.fullmatch(word) and word.isalpha():
                return word.lower()
    return "region"


def _load(path: Path) -> np.ndarray:
    if path.name.lower().endswith(nifti.SUFFIXES):
        return nifti.load_nifti(path, ANY_PLACE).pixels
    try:
        pixels = decode(path.read_bytes(), "its mask")
    except OSError as reason:
        raise DataError(f"its mask cannot be read ({type(reason).__name__})") from None
    return pixels.max(axis=2) if pixels.ndim == 3 else pixels
