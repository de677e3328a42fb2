"""Folders as people have them, made from a seed: what `medvlm init --data` is shown in the tests, and what pages of the
documentation take for granted: `python -m tests.own_folders masks FOLDER count=40`.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.io.images import encode_png

SIZE = 48


def picture(rng: np.random.Generator, is_bright: bool) -> np.ndarray:
    return (rng.integers(0, 60, (SIZE, SIZE + 8)) + 120 * is_bright).astype(np.uint8)


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    rows = list(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def make_table(root: Path, count: int = 40) -> Path:
    """PNG and a CSV with patients, yes and no in several spellings, classes, and a text; named by their stems."""
    rng = np.random.default_rng(0)
    (root / "png").mkdir(parents=True)
    rows = []
    for n in range(count):
        (root / "png" / f"film_{n:03}.png").write_bytes(encode_png(picture(rng, n % 2 == 1)))
        said = ("No", "yes")[n % 2] if n % 10 else ("0", "1")[n % 2]
        rows.append(
            {
                "film": f"film_{n:03}",
                "patient_id": f"p{n // 2}",
                "Bright": "unclear" if n == 7 else said,
                "view": ("AP", "PA", "lateral")[n % 3],
                "sex": "MF"[n % 2],
                "age": 20 + n,
            }
        )
    write_table(root / "films.csv", rows)
    return root


def make_questions(root: Path, count: int = 30) -> Path:
    rng = np.random.default_rng(1)
    root.mkdir(parents=True)
    rows = []
    for n in range(count):
        (root / f"{n}.png").write_bytes(encode_png(picture(rng, n % 2 == 1)))
        rows.append({"image": f"{n}.png", "question": "Is it bright?", "answer": ("no", "yes")[n % 2], "id": n})
        rows.append({"image": f"{n}.png", "question": "What is it?", "answer": f"thing {n} of its own kind", "id": n})
    write_table(root / "vqa.csv", rows)
    return root


def make_captions(root: Path, count: int = 30) -> Path:
    rng = np.random.default_rng(2)
    root.mkdir(parents=True)
    rows = []
    for n in range(count):
        (root / f"{n}.png").write_bytes(encode_png(picture(rng, n % 2 == 1)))
        rows.append({"path": f"{n}.png", "caption": f"A picture that is {('dark', 'bright')[n % 2]}, number {n}."})
    write_table(root / "captions.csv", rows)
    return root


def make_classes(root: Path, each: int = 15, splits: tuple[str, ...] = ()) -> Path:
    rng = np.random.default_rng(3)
    for split in splits or ("",):
        for number, name in enumerate(("dark", "bright")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for n in range(each):
                (folder / f"{n}.png").write_bytes(encode_png(picture(rng, number == 1)))
    return root


def make_masks(root: Path, count: int = 30, beside: bool = False) -> Path:
    """A bright disc in each image, and its mask; beside: in the same folder, named `_mask`."""
    rng = np.random.default_rng(4)
    images, masks = (root, root) if beside else (root / "images", root / "masks")
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for n in range(count):
        y, x, radius = *rng.integers(14, SIZE - 14, 2), rng.integers(5, 10)
        mask = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        image = rng.integers(0, 60, (SIZE, SIZE)) + 120 * mask
        (images / f"case{n}.png").write_bytes(encode_png(image.astype(np.uint8)))
        (masks / f"case{n}{'_mask' if beside else ''}.png").write_bytes(encode_png((255 * mask).astype(np.uint8)))
    return root


def make_coco(root: Path) -> Path:
    rng = np.random.default_rng(5)
    (root / "train").mkdir(parents=True)
    images, boxes = [], []
    for n in range(12):
        (root / "train" / f"{n}.png").write_bytes(encode_png(picture(rng, False)))
        images.append({"id": n, "file_name": f"{n}.png", "height": SIZE, "width": SIZE + 8})
        boxes.append({"id": n, "image_id": n, "category_id": 1, "bbox": [2, 3, 10, 12]})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "biopsy"}]}
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def make_dialogues(root: Path) -> Path:
    rng = np.random.default_rng(6)
    (root / "images").mkdir(parents=True)
    records = []
    for n in range(12):
        (root / "images" / f"{n}.png").write_bytes(encode_png(picture(rng, n % 2 == 1)))
        turns = [
            {"from": "human", "value": "<image>\nIs it bright?"},
            {"from": "gpt", "value": ("It is dark.", "It is bright.")[n % 2]},
        ]
        records.append({"id": n, "image": f"{n}.png", "conversations": turns})
    (root / "train.json").write_text(json.dumps(records))
    return root


def make_parquet(root: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(7)
    root.mkdir(parents=True)
    images = [{"bytes": encode_png(picture(rng, n % 2 == 1)), "path": None} for n in range(20)]
    table = pa.table(
        {"image": images, "question": ["Is it bright?"] * 20, "answer": [("no", "yes")[n % 2] for n in range(20)]}
    )
    pq.write_table(table, root / "data.parquet")
    return root


def make_dicom(root: Path, count: int = 30, is_identified: bool = True) -> Path:
    """Radiographs of as many studies in folders, two a patient, and a CSV by accession number. is_identified: their
    headers are those of a hospital, else of a trial."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    rng = np.random.default_rng(8)
    rows = []
    for n in range(count):
        image = picture(rng, n % 2 == 1).astype(np.uint16) * 16
        made = Dataset()
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["i", str(n)])
        made.StudyInstanceUID = generate_uid(entropy_srcs=["study", str(n)])
        made.SeriesInstanceUID = generate_uid(entropy_srcs=["series", str(n)])
        made.Modality, made.PatientID, made.AccessionNumber = "DX", f"P{n // 2:05}", f"ACC{n:06}"
        made.PatientName = f"Test^Person{n // 2}" if is_identified else ""
        if is_identified:
            made.StudyDate, made.InstitutionName, made.PatientSex = "20240105", "A hospital", "F"
        else:
            made.PatientIdentityRemoved, made.BurnedInAnnotation = "YES", "NO"
        made.Rows, made.Columns = image.shape
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
        made.RescaleSlope, made.RescaleIntercept = 1, 0
        made.WindowCenter, made.WindowWidth, made.PresentationIntentType = 2048, 4096, "FOR PRESENTATION"
        made.PixelData = image.tobytes()
        folder = root / f"{n // 2}" / f"{n}"
        folder.mkdir(parents=True)
        pydicom.dcmwrite(folder / "image", made, enforce_file_format=True)
        rows.append({"accession": f"ACC{n:06}", "effusion": n % 2, "nodule": (n // 2) % 2})
    write_table(root / "labels.csv", rows)
    return root


def make_slides(root: Path, count: int = 6, in_classes: bool = False) -> Path:
    """Whole slides of 1.5 x 2 mm at 2 micrometres a pixel, every second with a patch of stained tissue: SVS with
    a CSV by their names, or pyramids in TIFF in a folder for each class. Each has a label, which is none of its levels.
    """
    import tifffile

    rng = np.random.default_rng(11)
    rows = []
    for n in range(count):
        base = rng.integers(225, 255, (768, 1024, 3)).astype(np.uint8)
        if n % 2:
            base[256:512, 256:768] = (170, 90, 150)
        levels = [base, base.reshape(192, 4, 256, 4, 3).mean((1, 3)).astype(np.uint8)]
        place = root / ("normal", "tumor")[n % 2] if in_classes else root / "slides"
        place.mkdir(parents=True, exist_ok=True)
        how: dict[str, Any] = {
            "photometric": "rgb",
            "metadata": None,
            "resolution": (5000, 5000),
            "resolutionunit": 3,
        }
        if not in_classes:
            how["description"] = "Aperio Image Library v12\n1024x768|AppMag = 5|MPP = 2.0"
        with tifffile.TiffWriter(place / f"s{n}{'.tiff' if in_classes else '.svs'}") as tiff:
            for level in levels:
                tiff.write(level, tile=(256, 256), compression="deflate", **how)
            tiff.write(base[:200, :100], metadata=None, photometric="rgb")
        rows.append({"slide_id": f"s{n}", "patient": f"p{n // 2}", "tumor": ("no", "yes")[n % 2]})
    if not in_classes:
        write_table(root / "slides.csv", rows)
    return root


def make_volumes(root: Path, count: int = 12, masks: bool = True, unit: str = "unknown") -> Path:
    """NIfTI of CT-like values with a bright block; its mask of two labels beside it as nnU-Net has it, or a table."""
    import nibabel

    rng = np.random.default_rng(9)
    images, labels = root / "imagesTr", root / "labelsTr"
    for folder in (images, labels):
        folder.mkdir(parents=True)
    rows = []
    for n in range(count):
        volume = rng.normal(-950, 20, (16, 20, 12))
        mask = np.zeros(volume.shape, np.uint8)
        mask[4:10, 5:12, 3:8] = 1
        if n % 2:
            mask[6:8, 6:9, 4:6] = 2
        volume[mask == 1], volume[mask == 2] = 40, 120
        for folder, name, values in ((images, f"ct_{n}_0000", volume.astype(np.int16)), (labels, f"ct_{n}", mask)):
            made = nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0]))
            made.header.set_xyzt_units(unit)
            if folder is images or masks:
                nibabel.save(made, folder / f"{name}.nii.gz")
        rows.append({"scan": f"ct_{n}_0000", "lesion": ("no", "yes")[n % 2]})
    if not masks:
        write_table(root / "scans.csv", rows)
    return root


def make_readings(root: Path, count: int = 40) -> Path:
    """PNG and a CSV with patients, a report and a finding."""
    rng = np.random.default_rng(10)
    (root / "png").mkdir(parents=True)
    rows = []
    for n in range(count):
        (root / "png" / f"{n:03}.png").write_bytes(encode_png(picture(rng, n % 2 == 1)))
        said = {"report": ("No effusion.", "An effusion.")[n % 2], "effusion": ("no", "yes")[n % 2]}
        rows.append({"film": f"{n:03}", "patient": f"p{n // 2}", **said})
    write_table(root / "films.csv", rows)
    return root


if __name__ == "__main__":
    layout, folder, *settings = sys.argv[1:]
    given = {key: int(value) for key, _, value in (setting.partition("=") for setting in settings)}
    globals()[f"make_{layout}"](Path(folder), **given)
