"""Made structure sets: contours in voxels of a series, written as a planning system writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medvlm.io.dicom.structures import STRUCTURES

Contours = Sequence[tuple[float, np.ndarray]]
"""(slice, points [P, 2] as row and column) each."""


def make_structures(image: Any, affine: Any, regions: Mapping[str, Contours], **changes: Any) -> Dataset:
    """image: a slice of the series. affine: of its volume, as in Medium. changes: `kind` of the contours, and
    attributes of all regions."""
    kind = changes.pop("kind", "CLOSED_PLANAR")
    found = Dataset()
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "SpecificCharacterSet", "PatientIdentityRemoved"):
        if name in image:
            setattr(found, name, image[name].value)
    found.SOPClassUID, found.SOPInstanceUID, found.SeriesInstanceUID = STRUCTURES, generate_uid(), generate_uid()
    found.Modality, found.StructureSetLabel = "RTSTRUCT", "PLAN"
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = image.SeriesInstanceUID
    study.RTReferencedSeriesSequence, frame.RTReferencedStudySequence = [series], [study]
    frame.FrameOfReferenceUID = image.FrameOfReferenceUID
    found.ReferencedFrameOfReferenceSequence, found.StructureSetROISequence, found.ROIContourSequence = [frame], [], []
    for number, (name, contours) in enumerate(regions.items(), 1):
        region, drawn = Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        region.ReferencedFrameOfReferenceUID = image.FrameOfReferenceUID
        for key, value in changes.items():
            setattr(region, key, value)
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for at, points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            voxels = np.c_[np.full(len(points), at), points, np.ones(len(points))]
            lps = voxels @ np.array(affine).T * [-1, -1, 1]
            contour.ContourData = [f"{each:.9g}" for each in lps.ravel()]
            drawn.ContourSequence.append(contour)
        found.StructureSetROISequence.append(region)
        found.ROIContourSequence.append(drawn)
    return found


def save_structures(found: Dataset, to: Path) -> Path:
    found.file_meta = FileMetaDataset()
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.save_as(to, enforce_file_format=True)
    return to
