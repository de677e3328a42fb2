"""Generated DICOM series whose values follow from the position in the patient: every scanner samples the same field."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1", "CR": "1.2.840.10008.5.1.4.1.1.1", "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "OT": "1.2.840.10008.5.1.4.1.1.7", "NM": "1.2.840.10008.5.1.4.1.1.20",
}  # fmt: skip
ENHANCED = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1"}
SECONDARY_CAPTURE = SOP_CLASSES["OT"]

CENTRE = np.array([10.0, -5.0, 40.0])
"""LPS of the centre of the generated volumes."""

_count = 0


def uid() -> str:
    """A new UID at each call; the sequence is the same in every run."""
    global _count
    _count += 1
    return f"1.2.826.0.1.3680043.8.498.{_count}"


def waves(lps_mm: np.ndarray) -> np.ndarray:
    """The field at positions in the patient, from -720 to 920 as in CT. It is curved, so a wrong affine cannot give the
    right values."""
    x, y, z = np.moveaxis(lps_mm - CENTRE, -1, 0)
    return 100 + 320 * np.sin(x / 11) + 260 * np.cos(y / 9 + 1) + 240 * np.sin(z / 7 + 0.5)


def ramp(lps_mm: np.ndarray) -> np.ndarray:
    """A linear field, for which interpolation between neighbours is exact."""
    return 100 + (lps_mm - CENTRE) @ np.array([17.3, -31.1, 43.7])


Field = Callable[[np.ndarray], np.ndarray]


def axes(degrees: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """Row direction, column direction and normal as the columns of a matrix, turned about x, y and z."""
    x, y, z = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    turned: np.ndarray = about_z @ about_y @ about_x
    return turned


def slices(
    *,
    modality: str = "CT",
    size: tuple[int, int, int] = (8, 20, 24),
    spacing: tuple[float, float, float] = (2.5, 0.7, 0.9),
    turn: tuple[float, float, float] = (0, 0, 0),
    field: Field = waves,
    offset: float = 0,
    shift: tuple[float, float, float] = (0, 0, 0),
    rescale: Callable[[int], tuple[float, float]] | None = None,
    signed: bool = True,
    bits: int = 16,
    tilt_degrees: float = 0,
    decimals: int = 6,
    **header: Any,
) -> list[Dataset]:
    """One series, ordered along the normal. spacing: between slices, rows, columns. offset: added to every value, so
    that two volumes at the same position can be distinguished. shift: of the whole volume, LPS in mm. rescale: slope
    and intercept of the k-th slice. decimals: of the positions in the header."""
    row, column, normal = axes(turn).T
    rescale = rescale or (lambda k: (1, 0 if signed else -1024))
    study, series, frame_of_reference = uid(), uid(), uid()
    step = normal * spacing[0] + column * spacing[0] * np.tan(np.radians(tilt_degrees))
    corner = (
        CENTRE
        + np.array(shift)
        - step * (size[0] - 1) / 2
        - column * spacing[1] * (size[1] - 1) / 2
        - row * spacing[2] * (size[2] - 1) / 2
    )
    made = []
    for k in range(size[0]):
        position = corner + k * step
        down, across = np.meshgrid(np.arange(size[1]), np.arange(size[2]), indexing="ij")
        places = position + down[..., None] * spacing[1] * column + across[..., None] * spacing[2] * row
        slope, intercept = rescale(k)
        stored = np.rint((field(places) + offset - intercept) / slope).astype(np.int64)
        ds = image(stored, modality=modality, signed=signed, bits=bits)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame_of_reference
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient = [f"{x:.{decimals}f}" for x in position]
        ds.ImageOrientationPatient = [f"{x:.9f}" for x in (*row, *column)]
        ds.PixelSpacing, ds.SliceThickness = [spacing[1], spacing[2]], spacing[0]
        if modality in ("CT", "PT") or (slope, intercept) != (1, 0):
            ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        made.append(change(ds, **header))
    return made


def image(stored: np.ndarray, *, modality: str, signed: bool = False, bits: int = 16, **header: Any) -> Dataset:
    """One image from [H, W] or [H, W, 3]. header: attributes to add or replace."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = SOP_CLASSES[modality], uid()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(), uid()
    ds.PatientID, ds.PatientName, ds.AccessionNumber, ds.Modality = "PAT-4711", "Mustermann^Erika", "ACC-0815", modality
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Rows, ds.Columns = stored.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if stored.ndim == 3 else (1, "MONOCHROME2")
    if stored.ndim == 3:
        ds.PlanarConfiguration, bits = 0, 8
    ds.BitsAllocated = 8 if bits <= 8 else 16
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, int(signed)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    assert low <= stored.min() and stored.max() <= high, "the values do not fit the bits"
    ds.PixelData = (stored & ((1 << bits) - 1)).astype(f"<u{ds.BitsAllocated // 8}").tobytes()
    if signed and bits < ds.BitsAllocated:
        ds.PixelData = stored.astype(f"<i{ds.BitsAllocated // 8}").tobytes()
    return change(ds, **header)


def change(ds: Dataset, **header: Any) -> Dataset:
    """The data set with attributes added or replaced; None deletes one."""
    for name, value in header.items():
        if value is not None:
            setattr(ds, name, value)
        elif name in ds:
            delattr(ds, name)
    return ds


def to_enhanced(parts: list[Dataset], order: Iterable[int] | None = None) -> Dataset:
    """The slices as frames of one enhanced object, in this order."""
    parts = [parts[i] for i in order] if order is not None else parts
    ds = copy.deepcopy(parts[0])
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID(ENHANCED[ds.Modality])
    ds.ImageType, ds.NumberOfFrames = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], len(parts)
    ds.PixelData = b"".join(part.PixelData for part in parts)
    plane, measures = Dataset(), Dataset()
    plane.ImageOrientationPatient, measures.PixelSpacing = ds.ImageOrientationPatient, ds.PixelSpacing
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], []
    for number, part in enumerate(parts, 1):
        place, content, rescale, group = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = part.ImagePositionPatient
        content.StackID, content.InStackPositionNumber = "1", number
        content.TemporalPositionIndex = int(part.get("TemporalPositionIdentifier", 1))
        group.PlanePositionSequence, group.FrameContentSequence = [place], [content]
        if "RescaleSlope" in part:
            rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = (
                part.RescaleSlope,
                part.RescaleIntercept,
                "HU",
            )
            group.PixelValueTransformationSequence = [rescale]
        ds.PerFrameFunctionalGroupsSequence.append(group)
    gone = (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
        "TemporalPositionIdentifier",
    )
    return change(ds, **dict.fromkeys(gone))


def as_syntax(ds: Dataset, syntax: str) -> Dataset:
    """The data set in another transfer syntax: big endian, or by pydicom's encoders and save_as."""
    if syntax == ExplicitVRBigEndian:
        if ds.BitsAllocated == 16:
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds.file_meta.TransferSyntaxUID = UID(syntax)
    elif UID(syntax).is_compressed and not UID(syntax).is_deflated:
        ds.compress(UID(syntax), generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = UID(syntax)
    return ds


def save(made: Iterable[Dataset], folder: Path) -> list[Path]:
    """Saves files under names that do not reveal the order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for ds in made:
        paths.append(folder / f"{len(paths) * 7919 % 9973:04d}")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths
