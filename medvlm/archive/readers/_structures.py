"""Structure sets of a DICOM archive: which of them marks which volume, and the mask that it becomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from medvlm.archive.mask_labels import MAX_CLASSES, AsksForMask, ask_for_mask, number_objects
from medvlm.core.errors import DataError
from medvlm.core.sample import Affine, Decoded, Question
from medvlm.io.dicom.dataset import Gate
from medvlm.io.dicom.header import Header
from medvlm.io.dicom.stack import Stack
from medvlm.io.dicom.structures import StructureSet, load_structures, read_structures


class Structures(AsksForMask):
    """Masks from structure sets (RTSTRUCT) of the same archive."""

    regions: dict[str, tuple[str, ...]] = Field(min_length=1, max_length=MAX_CLASSES)
    """Class -> the names of its regions, whatever their case, e.g. {liver: [Liver, liver_auto]}. The mask of a volume
    speaks of the classes that its structure set has regions of. A voxel of several classes is of the last one."""

    @field_validator("regions", mode="before")
    @classmethod
    def _one_name(cls, regions: Any) -> Any:
        if not isinstance(regions, dict):
            return regions
        return {name: [found] if isinstance(found, str) else found for name, found in regions.items()}


def take_structures(path: Path, found: list[StructureSet]) -> bool | DataError:
    """Whether a file that is no image is a structure set, which is then added to those found; why not, if it is
    damaged."""
    try:
        structures = read_structures(path)
    except DataError as reason:
        return reason
    found += [structures] if structures else []
    return structures is not None


def ask_for_regions(
    asked: Structures,
    found: Sequence[StructureSet],
    stack: Stack,
    headers: Sequence[Header],
    key: str,
    left_out: Counter[str],
) -> tuple[Question, partial[Decoded]] | None:
    """The question for the mask of a volume, and what loads the mask; None if no structure set marks it. headers: of
    its slices. Raises DataError if several structure sets do, and for one in another frame of reference."""
    series, frames = {header.series for header in headers}, {header.frame_of_reference for header in headers}
    own = [each for each in found if each.series & series or (not each.series and each.frames & frames)]
    if not own:
        left_out["volume without a structure set: no mask"] += 1
        return None
    if len(own) > 1:
        raise DataError(f"{len(own)} structure sets mark one volume; keep one of them")
    (structures,) = own
    if structures.frames and not structures.frames <= frames:
        raise DataError("its structure set is in another frame of reference")
    regions = {name: numbers for name, names in asked.regions.items() if (numbers := structures.find(names))}
    if not regions:
        left_out["structure set without a region of the card: no mask"] += 1
        return None
    load = partial(load_regions, structures.path, regions, stack.affine, stack.size, asked.objects)
    return ask_for_mask(asked, tuple(regions), tuple(regions), key, objects=asked.objects), load


def load_regions(
    path: Path,
    regions: Mapping[str, tuple[int, ...]],
    affine: Affine,
    size: tuple[int, int, int],
    objects: bool,
    gate: Gate | None = None,
) -> Decoded:
    found = load_structures(path, regions, affine, size, gate)
    return Decoded(number_objects(found.pixels, len(regions)), unit="raw", affine=affine) if objects else found
