"""Variations of a series that scanners, archives and accidents produce, for the table of test_series.py."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.uid import JPEGLSNearLossless

from tests.io.dicom.series import as_syntax, change, image, slices, to_enhanced, uid


def set_numbers(made: list[Dataset], numbers: list[int | None]) -> list[Dataset]:
    return [change(ds, InstanceNumber=number) for ds, number in zip(made, numbers, strict=True)]


def one_series(*volumes: list[Dataset]) -> list[Dataset]:
    """The volumes as one series."""
    names = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    first = volumes[0][0]
    return [change(ds, **{name: first[name].value for name in names}) for volume in volumes for ds in volume]


def one_study(*volumes: list[Dataset]) -> list[Dataset]:
    return [change(ds, StudyInstanceUID=volumes[0][0].StudyInstanceUID) for volume in volumes for ds in volume]


def without(made: list[Dataset], *places: int) -> list[Dataset]:
    return [ds for k, ds in enumerate(made) if k not in places]


def twice(ds: Dataset, **header: Any) -> Dataset:
    return change(copy.deepcopy(ds), SOPInstanceUID=uid(), **header)


def each(made: list[Dataset], **header: Any) -> list[Dataset]:
    return [change(ds, **header) for ds in made]


def encode(made: list[Dataset], syntax: str) -> list[Dataset]:
    return [as_syntax(ds, syntax) for ds in made]


def with_other_pixels(ds: Dataset) -> Dataset:
    pixels = np.frombuffer(ds.PixelData, "<i2").copy()
    pixels[7] += 1
    return twice(ds, PixelData=pixels.tobytes())


def garbage_in_high_bits() -> list[Dataset]:
    """12 bits are stored in 16; the other four have no meaning (PS3.5 8.1.1)."""
    made = slices(bits=12, signed=False)
    for ds in made:
        ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") | 0xA000).astype("<u2").tobytes()
    return made


def with_image(made: list[Dataset], kind: list[str], **header: Any) -> list[Dataset]:
    """The series with one more image of another kind at a position in the middle."""
    return [*made, change(twice(made[4]), ImageType=kind, **header)]


def over_time(count: int, **header: Any) -> list[Dataset]:
    return one_series(
        *(slices(modality="MR", offset=200 * t, TemporalPositionIdentifier=t + 1, **header) for t in range(count))
    )


def by_number_only() -> list[Dataset]:
    """Two volumes that only consecutive instance numbers distinguish."""
    first, second = slices(modality="MR"), slices(modality="MR", offset=300)
    return one_series(first, set_numbers(second, list(range(9, 17))))[::-1]


def interleaved(**varied: tuple[object, object]) -> list[Dataset]:
    """Every second slice is of another kind; each slice has a position of its own."""
    made = slices(modality="MR", size=(16, 20, 24), spacing=(1.25, 0.7, 0.9))
    for k, ds in enumerate(made):
        change(ds, **{name: values[k % 2] for name, values in varied.items()})
    return made


def curved() -> list[Dataset]:
    made = slices()
    x, y, z = map(float, made[4].ImagePositionPatient)
    made[4].ImagePositionPatient = [x + 1, y, z]
    return made


def uneven() -> list[Dataset]:
    made = slices()
    for ds in made[6:]:
        x, y, z = map(float, ds.ImagePositionPatient)
        ds.ImagePositionPatient = [x, y, z + 0.2]
    return made


def frames_in(made: list[Dataset], **header: Any) -> list[Dataset]:
    """One file with several frames, without functional groups that give their positions."""
    whole = copy.deepcopy(made[0])
    whole.PixelData, whole.NumberOfFrames = b"".join(ds.PixelData for ds in made), len(made)
    return [change(whole, **header)]


def with_groups_lost() -> list[Dataset]:
    ds = to_enhanced(slices())
    ds.PerFrameFunctionalGroupsSequence = ds.PerFrameFunctionalGroupsSequence[:-1]
    return [ds]


def thirds(k: int) -> tuple[float, float]:
    return 0.5 + k / 4, -1024 + 8 * k


def near_lossless() -> list[Dataset]:
    made = slices(signed=False)
    for ds in made:
        ds.compress(JPEGLSNearLossless, jls_error=2, generate_instance_uid=False)
    return made


def in_colour() -> list[Dataset]:
    made = slices()
    colour = np.random.default_rng(5).integers(0, 256, (20, 24, 3))
    gone = ("RescaleSlope", "RescaleIntercept")
    pictures = [image(colour, modality="CT") for _ in made]
    names = (
        "PixelData",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
    )
    return [
        change(ds, **{n: picture[n].value for n in names}, **dict.fromkeys(gone))
        for ds, picture in zip(made, pictures, strict=True)
    ]
