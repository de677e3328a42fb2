"""Writes a mask as a DICOM Segmentation (PS3.3 A.51): a binary frame for each slice that shows a class, in the study
and the frame of reference of its images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from medvlm import __version__
from medvlm.core.errors import DataError
from medvlm.core.sample import Affine

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
COPIED = (
    *("SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator"),
)
"""Attributes of patient, study and frame of reference that are those of the images."""
REQUIRED = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime")
CATEGORY = ("85756007", "SCT", "Tissue")
"""The property of a class whose code is unknown: its name stands in the label of its segment."""


def write_dicom_mask(
    planes: np.ndarray, classes: Sequence[str], affine: Affine, images: Sequence[Path], to: Path
) -> None:
    """planes: bool [K, D, H, W]. affine: of the volume, as in Medium. images: its files, in any order; patient and
    study are those of the first. The file appears once it is complete.

    Raises DataError for images without a frame of reference, and for a mask without a marked pixel, which the format
    does not allow."""
    from pydicom import dcmread
    from pydicom.dataset import Dataset

    if not planes.any():
        raise DataError(f"{to}: nothing was found, and DICOM Segmentation cannot hold an empty mask; use .nii.gz")
    headers = [dcmread(path, stop_before_pixels=True) for path in images]
    if "FrameOfReferenceUID" not in headers[0]:
        raise DataError(f"{images[0]}: has no FrameOfReferenceUID, which DICOM Segmentation needs; use .nii.gz")
    dataset = Dataset()
    for name in COPIED:
        if name in headers[0]:
            setattr(dataset, name, headers[0][name].value)
    for name in REQUIRED:
        if name not in dataset:
            setattr(dataset, name, None)
    shown = [(k, d) for k in range(len(classes)) for d in np.flatnonzero(planes[k].any((1, 2))).tolist()]
    _describe(dataset, classes)
    _place(dataset, np.array(affine), planes.shape[1:], shown)
    _refer(dataset, headers)
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = *planes.shape[2:], len(shown)
    bits = np.packbits(np.concatenate([planes[k, d].ravel() for k, d in shown]), bitorder="little").tobytes()
    dataset.PixelData = bits + b"\0" * (len(bits) % 2)
    _save(dataset, to)


def _describe(dataset: Any, classes: Sequence[str]) -> None:
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    now = datetime.now()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SEGMENTATION, generate_uid()
    dataset.SeriesInstanceUID, dataset.SeriesNumber, dataset.InstanceNumber = generate_uid(), 1, 1
    dataset.Modality, dataset.Manufacturer, dataset.ManufacturerModelName = "SEG", "medvlm", "medvlm"
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = "0", __version__
    dataset.ContentDate, dataset.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.SeriesDate, dataset.SeriesTime = dataset.ContentDate, dataset.ContentTime
    dataset.ContentLabel, dataset.ContentDescription, dataset.ContentCreatorName = "SEGMENTATION", "", ""
    dataset.ImageType, dataset.SegmentationType, dataset.LossyImageCompression = ["DERIVED", "PRIMARY"], "BINARY", "00"
    dataset.SegmentsOverlap = "UNDEFINED"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0
    dataset.SegmentSequence = []
    for number, name in enumerate(classes, 1):
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, name[:64]
        segment.SegmentAlgorithmType, segment.SegmentAlgorithmName = "AUTOMATIC", "medvlm"
        segment.SegmentedPropertyCategoryCodeSequence = [_make_code(*CATEGORY)]
        segment.SegmentedPropertyTypeCodeSequence = [_make_code(*CATEGORY)]
        dataset.SegmentSequence.append(segment)


def _place(dataset: Any, affine: np.ndarray, size: tuple[int, ...], shown: Sequence[tuple[int, int]]) -> None:
    """affine: 3 x 4, (d, h, w, 1) -> RAS mm. DICOM counts to the left and back (LPS)."""
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    lps = np.diag([-1.0, -1.0, 1.0]) @ affine
    sides = np.linalg.norm(lps[:, :3], axis=0)
    plane, measures = Dataset(), Dataset()
    plane.ImageOrientationPatient = _round([*(lps[:, 2] / sides[2]), *(lps[:, 1] / sides[1])])
    measures.PixelSpacing, measures.SliceThickness = _round([sides[1], sides[2]]), _round([sides[0]])[0]
    measures.SpacingBetweenSlices = measures.SliceThickness
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    organization = Dataset()
    organization.DimensionOrganizationUID = generate_uid()
    dataset.DimensionOrganizationSequence = [organization]
    dataset.DimensionIndexSequence = []
    for pointer, group in (((0x0062, 0x000B), (0x0062, 0x000A)), ((0x0020, 0x0032), (0x0020, 0x9113))):
        index = Dataset()  # by segment, then by position
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        index.DimensionIndexPointer, index.FunctionalGroupPointer = pointer, group
        dataset.DimensionIndexSequence.append(index)
    dataset.PerFrameFunctionalGroupsSequence = []
    for k, d in shown:
        frame, content, identity, position = Dataset(), Dataset(), Dataset(), Dataset()
        content.DimensionIndexValues = [k + 1, d + 1]
        identity.ReferencedSegmentNumber = k + 1
        position.ImagePositionPatient = _round(lps @ np.array([d, 0, 0, 1.0]))
        frame.FrameContentSequence, frame.SegmentIdentificationSequence = [content], [identity]
        frame.PlanePositionSequence = [position]
        dataset.PerFrameFunctionalGroupsSequence.append(frame)


def _refer(dataset: Any, headers: Sequence[Any]) -> None:
    """Names the images that the mask was made of."""
    from pydicom.dataset import Dataset

    series = Dataset()
    series.SeriesInstanceUID = headers[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = []
    for header in headers:
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        series.ReferencedInstanceSequence.append(image)
    dataset.ReferencedSeriesSequence = [series]


def _make_code(value: str, scheme: str, meaning: str) -> Any:
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _round(numbers: Any) -> list[float]:
    """At most 16 characters each, as decimal strings have."""
    return [float(f"{number:.9g}") + 0.0 for number in numbers]


def _save(dataset: Any, to: Path) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    part = to.with_name(f"{to.name}.{os.getpid()}.part")
    try:
        dataset.save_as(part, enforce_file_format=True)
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)
