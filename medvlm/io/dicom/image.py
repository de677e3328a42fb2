"""Loads DICOM files as what a sample stores: volumes, radiographs, photographs and sequences of frames, with unit,
spacing and affine.

Everything here can be passed to another process: module-level functions with picklable arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded, Unit
from medvlm.io.dicom.dataset import Gate, numbers, read_whole, silence_pydicom, text, whole
from medvlm.io.dicom.groups import Groups
from medvlm.io.dicom.header import (
    CONCERNS,
    MEASURED,
    SLICED,
    Accepted,
    Concern,
    Header,
    count_frames,
    modality_of,
    read_image_header,
)
from medvlm.io.dicom.pixels import MAX_BYTES, decode_frames
from medvlm.io.dicom.stack import Stack, build_stacks
from medvlm.io.dicom.units import NUCLEAR, is_known_unit
from medvlm.io.dicom.values import AIR_HU, check_hu, is_hu, to_quantity, to_shades

if TYPE_CHECKING:
    from pydicom import Dataset

NAMED: frozenset[Accepted] = frozenset({"derived", "localizer", "secondary_capture"})
"""Concerns that are accepted for a file that a user named explicitly: naming it says that it is wanted."""


def load_file(
    path: Path,
    accept: frozenset[Accepted] = NAMED,
    gate: Gate | None = None,
    units: tuple[str, ...] | None = None,
) -> Decoded:
    """Loads one file: a radiograph, a photograph or a slice [H, W] ([H, W, 3] in colour); a volume [D, H, W] if its
    frames have positions; otherwise all its frames, see load_cine().

    units: those that the values of PET may have; any for None.
    Raises DataError (NotDicom for a file that is not DICOM) with the reason why it is refused.
    """
    header = read_image_header(path)
    refuse_concerns(frozenset().union(*(frame.concerns for frame in header.frames)), accept)
    if units is not None:
        _refuse_units(header, units)
    if len(header.frames) == 1:
        return load_image(path, accept, gate)
    if header.modality not in SLICED or header.frames[0].position is None:
        return load_cine(path, accept, gate)
    found = build_stacks([header], accept)
    if len(found) > 1:
        raise DataError(f"it holds {len(found)} volumes; use the reader dicom_tree, which makes a medium of each")
    if isinstance(found[0], DataError):
        raise found[0]
    return load_stack(found[0], accept, gate)


def _refuse_units(header: Header, units: tuple[str, ...]) -> None:
    """Raises DataError for PET in other units than these. Counts of nuclear medicine (NM) have none."""
    if header.modality not in NUCLEAR or header.units in units or (header.modality == "NM" and not header.units):
        return
    is_known = is_known_unit(header.units)
    said = f"in Units {header.units}" if is_known else "without known Units (0054,1001)"
    remedy = f"name those that the card takes, e.g. units: [{header.units if is_known else 'BQML'}]"
    raise DataError(
        f"PET {said}{', which the card does not name' if units else ''}: values of different Units cannot be compared;"
        f" {remedy}"
    )


def refuse_concerns(concerns: frozenset[Concern], accept: frozenset[Accepted]) -> None:
    """Raises DataError for the first concern that is not accepted."""
    for concern in sorted(concerns - accept):
        remedy = "" if concern == "mosaic" else f"; to use it anyway, accept: [{concern}]"
        raise DataError(f"{CONCERNS[concern]}{remedy}")


def load_stack(stack: Stack, accept: frozenset[Accepted] = frozenset(), gate: Gate | None = None) -> Decoded:
    """A volume [D, H, W]: int16 if that is exact (CT in HU), else float32. Raises DataError."""
    _check_bytes(math.prod(stack.size) * (2 if stack.offsets is None else 4))
    with silence_pydicom():
        volume, hu = _DicomVolume((len(stack.slices), *stack.size[1:])), True
        for index, slice_HW, says_hu in _read_slices(stack.slices, gate):
            volume.put(index, slice_HW)
            hu &= says_hu
        for index, (copy_HW, _) in zip((at for at, _, _ in stack.copies), _read_copies(stack, gate), strict=True):
            if not np.array_equal(volume.values_DHW[index], copy_HW):
                raise DataError(
                    "two different images at the same position, and nothing in their headers distinguishes them; keep"
                    " one, or separate the series"
                )
    values_DHW = (
        volume.values_DHW
        if stack.offsets is None
        else _resample_evenly(volume.values_DHW, stack.offsets, stack.size[0])
    )
    values_DHW, unit = _check_quantity(values_DHW, stack.modality, hu, accept)
    return Decoded(values_DHW, stack.spacing_mm, unit, stack.modality, stack.affine)


def load_image(path: Path, accept: frozenset[Accepted] = NAMED, gate: Gate | None = None) -> Decoded:
    """The single image of a file: a quantity for CT, MR, PT and NM, else shades or colours for display. Raises
    DataError."""
    with silence_pydicom():
        dataset = read_whole(path, gate)
        if count_frames(dataset) > 1:
            raise DataError(f"it has {count_frames(dataset)} frames; expected one image")
        pixels, unit = _read_frames(dataset, accept)
        return Decoded(pixels[0], _read_spacing(dataset, Groups(dataset, 1)), unit, modality_of(dataset))


def load_cine(path: Path, accept: frozenset[Accepted] = NAMED, gate: Gate | None = None) -> Decoded:
    """All frames of a file in order, [D, H, W] or [D, H, W, 3] in colour, without a position in space. Raises
    DataError."""
    with silence_pydicom():
        dataset = read_whole(path, gate)
        pixels, unit = _read_frames(dataset, accept)
        return Decoded(pixels, None, unit, modality_of(dataset))


def _read_frames(dataset: Dataset, accept: frozenset[Accepted]) -> tuple[np.ndarray, Unit]:
    """The pixels of all frames, [D, H, W] or [D, H, W, 3], and their unit."""
    count, modality = count_frames(dataset), modality_of(dataset)
    groups, is_measured = (
        Groups(dataset, count),
        modality in MEASURED and "MONOCHROME" in text(dataset, "PhotometricInterpretation").upper(),
    )
    _check_bytes(count * whole(dataset, "Rows", 1) * whole(dataset, "Columns", 1) * (4 if is_measured else 3))
    stored = enumerate(decode_frames(dataset, list(range(count))))
    if is_measured:
        values = np.stack([_to_int16_if_exact(to_quantity(each, dataset, groups, i)) for i, each in stored])
        return _check_quantity(values, modality, all(is_hu(dataset, groups, i) for i in range(count)), accept)
    seen = np.stack([each if each.ndim == 3 else to_shades(each, dataset, groups, i) for i, each in stored])
    _refuse_blank(seen)
    return seen, "display"


def _check_bytes(count: int) -> None:
    if count > MAX_BYTES:
        raise DataError(f"it has more than {MAX_BYTES >> 20} MiB of pixels; split it")


class _DicomVolume:
    """Collects slices as int16, and switches to float32 at the first slice that is not exact in int16."""

    def __init__(self, size: tuple[int, int, int]) -> None:
        self.values_DHW: np.ndarray = np.zeros(size, np.int16)

    def put(self, index: int, slice_HW: np.ndarray) -> None:
        if slice_HW.shape != self.values_DHW.shape[1:]:
            raise DataError("a slice has a different size than its header says")
        if self.values_DHW.dtype != slice_HW.dtype and slice_HW.dtype == np.float32:
            _check_bytes(self.values_DHW.size * 4)
            self.values_DHW = self.values_DHW.astype(np.float32)
        self.values_DHW[index] = slice_HW


def _read_slices(places: tuple[tuple[Path, int], ...], gate: Gate | None) -> Iterator[tuple[int, np.ndarray, bool]]:
    """(index of the slice, its values, whether they are declared as HU), file by file, so that each is read once."""
    for path, group in groupby(sorted(enumerate(places), key=lambda x: (x[1][0], x[1][1])), key=lambda x: x[1][0]):
        wanted = [(index, frame) for index, (_, frame) in group]
        dataset = read_whole(path, gate)
        groups = Groups(dataset, count_frames(dataset))
        for (index, frame), stored in zip(wanted, decode_frames(dataset, [frame for _, frame in wanted]), strict=True):
            if stored.ndim != 2:
                raise DataError("a slice in colour: its values are not a quantity")
            yield index, _to_int16_if_exact(to_quantity(stored, dataset, groups, frame)), is_hu(dataset, groups, frame)


def _read_copies(stack: Stack, gate: Gate | None) -> Iterator[tuple[np.ndarray, bool]]:
    for _, path, frame in stack.copies:
        yield from ((values, hu) for _, values, hu in _read_slices(((path, frame),), gate))


def _to_int16_if_exact(values: np.ndarray) -> np.ndarray:
    """float32 values as int16 if that is exact, else unchanged."""
    if not np.isfinite(values).all():
        raise DataError("its rescale gives values that are not finite")
    if values.min() < -32768 or values.max() > 32767:
        return values
    whole = values.astype(np.int16)
    return whole if np.array_equal(whole, values) else values


def _check_quantity(
    values_DHW: np.ndarray, modality: str, says_hu: bool, accept: frozenset[Accepted]
) -> tuple[np.ndarray, Unit]:
    """The values and their unit: checked and clipped HU for a CT, raw values for other modalities."""
    _refuse_blank(values_DHW)
    if modality != "CT":
        return values_DHW, "raw"
    if "hu" in accept:
        return values_DHW, "HU" if says_hu else "raw"
    if not says_hu:
        raise DataError(
            "a CT without a rescale to HU (RescaleSlope, RescaleType); accept: [hu] to use its values unchecked"
        )
    check_hu(values_DHW)
    np.maximum(values_DHW, AIR_HU, out=values_DHW)
    return values_DHW, "HU"


def _resample_evenly(values_DHW: np.ndarray, offsets: tuple[float, ...], count: int) -> np.ndarray:
    """The volume resampled to `count` evenly spaced slices, float32, by linear interpolation between neighbours along
    the normal. A slice that is already at an even position is kept."""
    even_DHW = np.empty((count, *values_DHW.shape[1:]), np.float32)
    for i in range(count):
        at = min(max(int(np.searchsorted(offsets, i, "right")) - 1, 0), len(offsets) - 2)
        share = np.float32((i - offsets[at]) / (offsets[at + 1] - offsets[at]))
        even_DHW[i] = values_DHW[at] * (1 - share) + values_DHW[at + 1] * share
    return even_DHW


def _refuse_blank(pixels: np.ndarray) -> None:
    if pixels.min() == pixels.max():
        raise DataError("all its pixels have the same value")


def _read_spacing(dataset: Dataset, groups: Groups) -> tuple[float, ...] | None:
    """Spacing of a single image in mm, (between rows, between columns): the calibrated PixelSpacing, else that at the
    detector, where the radiograph is larger than the patient. Zeros, which some devices write, are ignored."""
    measures = groups.group(0, "PixelMeasuresSequence")
    for found in (
        measures and numbers(measures, "PixelSpacing", 2),
        *(numbers(dataset, n, 2) for n in ("ImagerPixelSpacing", "NominalScannedPixelSpacing")),
    ):
        if found and min(found) > 0:
            return found
    return None
