"""DICOM series whose every value is known from its place in the patient: a linear ramp through space, seen by any scanner."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1", "CR": "1.2.840.10008.5.1.4.1.1.1", "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "OT": "1.2.840.10008.5.1.4.1.1.7",
}  # fmt: skip
ENHANCED = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1"}

RAMP = np.array([17.3, -31.1, 43.7])
"""Per mm to the left, to the back and to the head: every voxel's neighbours differ, and no axis can be mistaken for another."""


def value_at(lps_mm: np.ndarray) -> np.ndarray:
    """What is at a place of the patient: from about -750 to 950 over the volumes made here, so that CT looks like CT."""
    return 100 + (lps_mm - np.array([10.0, -5.0, 40.0])) @ RAMP


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
    turn: np.ndarray | None = None,
    offset: float = 0,
    rescale: Callable[[int], tuple[float, float]] | None = None,
    signed: bool = True,
    bits: int = 16,
    tilt_degrees: float = 0,
    **header: Any,
) -> list[Dataset]:
    """One series, in the order of space. spacing: between slices, rows, columns. rescale: slope and intercept of the k-th
    slice. offset: added to every value, so that two volumes at one place can be told apart."""
    turn = axes() if turn is None else turn
    rescale = rescale or (lambda k: (1, 0 if signed else -1024))
    study, series, frame_of_reference = generate_uid(), generate_uid(), generate_uid()
    centre = np.array([10.0, -5.0, 40.0])
    step = turn[:, 2] * spacing[0] + turn[:, 1] * spacing[0] * np.tan(np.radians(tilt_degrees))
    corner = centre - step * (size[0] - 1) / 2 - turn[:, 1] * spacing[1] * (size[1] - 1) / 2 - turn[:, 0] * spacing[2] * (size[2] - 1) / 2
    made = []
    for k in range(size[0]):
        position = corner + k * step
        rows, columns = np.meshgrid(np.arange(size[1]), np.arange(size[2]), indexing="ij")
        places = position + rows[..., None] * spacing[1] * turn[:, 1] + columns[..., None] * spacing[2] * turn[:, 0]
        slope, intercept = rescale(k)
        stored = np.rint((value_at(places) + offset - intercept) / slope).astype(np.int64)
        ds = image(stored, modality=modality, signed=signed, bits=bits, **header)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame_of_reference
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient = [f"{x:.6f}" for x in position]
        ds.ImageOrientationPatient = [f"{x:.9f}" for x in (*turn[:, 0], *turn[:, 1])]
        ds.PixelSpacing, ds.SliceThickness = [spacing[1], spacing[2]], spacing[0]
        if modality in ("CT", "PT") or (slope, intercept) != (1, 0):
            ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        made.append(ds)
    return made


def image(stored: np.ndarray, *, modality: str, signed: bool = False, bits: int = 16, allocated: int = 16, **header: Any) -> Dataset:
    """One image, [H, W] or [H, W, 3]. header: attributes that are added or replaced."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = SOP_CLASSES[modality], generate_uid()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.PatientID, ds.PatientName, ds.AccessionNumber, ds.Modality = "PAT-4711", "Mustermann^Erika", "ACC-0815", modality
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Rows, ds.Columns = stored.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if stored.ndim == 3 else (1, "MONOCHROME2")
    if stored.ndim == 3:
        ds.PlanarConfiguration, allocated, bits = 0, 8, 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, bits, bits - 1, int(signed)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    assert low <= stored.min() and stored.max() <= high, "the values do not fit the bits"
    ds.PixelData = stored.astype(f"<{'i' if signed else 'u'}{allocated // 8}").tobytes()
    for name, value in header.items():
        setattr(ds, name, value)
    return ds


def enhanced(parts: list[Dataset], order: Iterable[int] | None = None) -> Dataset:
    """The same slices as the frames of one enhanced object, in this order."""
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
            rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = part.RescaleSlope, part.RescaleIntercept, "HU"
            group.PixelValueTransformationSequence = [rescale]
        ds.PerFrameFunctionalGroupsSequence.append(group)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept", "TemporalPositionIdentifier"):
        if name in ds:
            delattr(ds, name)
    return ds


def big_endian(ds: Dataset) -> Dataset:
    ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    return ds


def save(made: Iterable[Dataset], folder: Path) -> list[Path]:
    """Under names that say nothing about the order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for ds in made:
        paths.append(folder / f"{generate_uid()[-8:]}-{len(paths)}")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths
