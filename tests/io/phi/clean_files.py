"""DICOM files as a de-identifier leaves them; tests add identifying attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def make_clean(**attributes: Any) -> Dataset:
    """A CT slice with a file meta group, from which PS3.15's Basic Profile would remove nothing. attributes: keyword ->
    value."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = CTImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["instance"])
    made.StudyInstanceUID, made.SeriesInstanceUID = (
        generate_uid(entropy_srcs=["study"]),
        generate_uid(entropy_srcs=["series"]),
    )
    made.Modality, made.ImageType, made.PatientIdentityRemoved = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "YES"
    made.PatientName = made.PatientID = made.StudyDate = made.StudyTime = made.AccessionNumber = (
        made.ReferringPhysicianName
    ) = ""
    made.Manufacturer, made.DeidentificationMethod = "Maker", "by hand"
    pixels = np.random.default_rng(0).integers(0, 2000, (16, 16), dtype=np.uint16)
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = 16, 16, 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 0
    made.RescaleSlope, made.RescaleIntercept, made.RescaleType = 1, -1000, "HU"
    made.PixelData = pixels.tobytes()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def nest(item: Dataset, depth: int) -> Dataset:
    """The item inside `depth` nested sequences; the item itself for 0."""
    for _ in range(depth):
        outer = Dataset()
        outer.AnatomicRegionSequence = Sequence([item])
        item = outer
    return item


def put_deep(item: Dataset, depth: int) -> Dataset:
    """A clean slice with the item inside `depth` nested sequences."""
    made = make_clean()
    made.update(nest(item, depth))
    return made


def write(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path
