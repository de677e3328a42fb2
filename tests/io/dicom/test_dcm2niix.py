"""Series of real scanners compared with dcm2niix: what both read has the same values at the same positions, and every
difference in what is read is explained.

Two releases are compared if they are installed: the wheel of the test extra, and the system's (Debian: 1.0.20220720).
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from medvlm.archive.readers import dicom_tree
from medvlm.core.contracts import BadSample, LeftOut
from medvlm.core.sample import Affine, Decoded
from medvlm.io.dicom.image import load_file

nib = pytest.importorskip("nibabel")

MOSAIC = "a mosaic"
SINGLE = "1 slice; a volume needs at least 3"
OTHER = "not a DICOM file"
NO_ROWS = "not an image: it has no Rows"
SEG = "not an image for viewing"
SLIDE = "a tiled slide"
MODALITY = "which the card does not name"


@dataclass(frozen=True)
class Expected:
    """equal: number of volumes that medvlm reads, all of which must equal dcm2niix's. why: reason -> number of what
    medvlm does not read."""

    equal: int
    why: dict[str, int]


FOLDERS = {
    "TotalSegmentator": Expected(1, {OTHER: 1}),
    "dcm_qa": Expected(0, {MOSAIC: 2, OTHER: 2}),
    "dcm_qa_12bit": Expected(0, {MOSAIC: 3, OTHER: 2}),
    "dcm_qa_agfa": Expected(2, {OTHER: 2}),
    "dcm_qa_decubitus": Expected(1, {OTHER: 2}),
    "dcm_qa_enh": Expected(4, {OTHER: 2}),
    "dcm_qa_frag": Expected(1, {OTHER: 2}),
    "dcm_qa_nih": Expected(10, {MOSAIC: 4, OTHER: 15}),
    "dcm_qa_stc": Expected(3, {MOSAIC: 2, OTHER: 2}),
    "dcm_qa_toshiba": Expected(1, {OTHER: 2}),
    "dcm_qa_ts": Expected(0, {MOSAIC: 9, OTHER: 2}),
    "dicom": Expected(0, {SINGLE: 2, OTHER: 3}),
    # Ten encodings of one study of two slices, and one slice.
    "dicomParser": Expected(
        0, {SINGLE: 1, "2 slices; a volume needs at least 3": 1, NO_ROWS: 1, OTHER: 4, MODALITY: 2}
    ),
    "highdicom": Expected(0, {SINGLE: 1, SLIDE: 8, SEG: 12, NO_ROWS: 3, OTHER: 4, MODALITY: 1}),
}
"""Mosaics are always refused, because their geometry is in private attributes. Single slices are not a volume.
Segmentations and slides are not volumes of a scanner, although dcm2niix writes them as such."""

LOSSLESS = "testImages/encapsulated/single-frame/CT1_UNC.not_fragmented_bot_jpeg_ls.80.dcm"

UNREAD_BY_DEBIAN = {
    "dcm_qa_frag": "its JPEG decoder does not support fragmented images, according to its own message",
    LOSSLESS: "it was built without JPEG-LS",
}

SINGLE_FILES = {
    "dicom": ("testdata/1.dcm", "testdata/3.dcm"),
    "dicomParser": ("testImages/CT1_UNC.explicit_big_endian.dcm", LOSSLESS),
    "highdicom": ("data/test_files/ct_image.dcm",),
}


def find_wheel() -> str | None:
    try:
        import dcm2niix
    except ImportError:
        return None
    return str(dcm2niix.bin)


@pytest.fixture(params=[pytest.param("wheel", marks=pytest.mark.slow), "installed"])
def convert(request, real_data, tmp_path):
    """A function from a folder to the images that dcm2niix makes of it: values [i, j, k, t] and affine."""
    binary = find_wheel() if request.param == "wheel" else shutil.which("dcm2niix", path="/usr/local/bin:/usr/bin")
    if not binary:
        pytest.skip(f"needs dcm2niix ({request.param}): pip install dcm2niix, or apt-get install dcm2niix")

    def run(source: Path) -> list[tuple[np.ndarray, np.ndarray]]:
        # -p n: for Philips, use the standard's RescaleSlope instead of the vendor's private factors.
        command = [
            binary,
            "-z",
            "n",
            "-b",
            "n",
            "-p",
            "n",
            "-l",
            "o",
            "-d",
            "9",
            "-f",
            "%s_%e_%z",
            "-o",
            str(tmp_path),
            str(source),
        ]
        subprocess.run(command, capture_output=True, timeout=120)
        images = [nib.load(path) for path in sorted(tmp_path.glob("*.nii"))]
        return [(image.get_fdata().reshape(*image.shape[:3], -1), image.affine) for image in images]

    run.is_debian = request.param == "installed"  # type: ignore[attr-defined]
    return run


def measure_difference(ours: Decoded, values: np.ndarray, affine: np.ndarray) -> float:
    """Largest difference of a voxel to the most similar of dcm2niix's volumes; infinite if the voxels are at other
    positions."""
    assert ours.affine is not None
    to_theirs = np.linalg.inv(affine) @ square(ours.affine)
    whole = np.rint(to_theirs)
    far = np.array([*ours.pixels.shape, 1]) - [1, 1, 1, 0]
    axes, sign = np.abs(whole[:3, :3]).argmax(axis=0), whole[:3, :3].sum(axis=0)  # of theirs, for each of ours
    begin = np.where(sign < 0, np.array(values.shape)[axes] - 1, 0)
    if np.abs((to_theirs - whole) @ far).max() > 0.01 or (whole[axes, 3] != begin).any():  # of a voxel
        return float("inf")
    turned = np.flip(values.transpose(*axes, 3), tuple(i for i in range(3) if sign[i] < 0))
    return (
        float("inf")
        if turned.shape[:3] != ours.pixels.shape
        else float(np.abs(turned - ours.pixels[..., None]).max(axis=(0, 1, 2)).min())
    )


def square(affine: Affine) -> np.ndarray:
    return np.vstack([np.array(affine), [0, 0, 0, 1]])


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_volumes_have_the_values_and_positions_of_dcm2niix(name, convert, real_data):
    folder = real_data / "dicom_series" / name
    accept = ("derived", "no_uids")
    media = [{"kind": "volume", "modality": ["CT", "MR", "PT"]}]
    config = dicom_tree.Config.model_validate({"kind": "dicom_tree", "media": media, "accept": accept, "patient": ""})
    ours, why = list[Decoded](), Counter[str]()
    for item in dicom_tree.read(config, folder):
        if isinstance(item, BadSample | LeftOut):
            text, count = item.reason, item.count if isinstance(item, LeftOut) else 1
            why[next((known for known in FOLDERS[name].why if known in text), text)] += count
        else:
            ours += [load() for load in item.files.values()]
    assert (len(ours), dict(why)) == (FOLDERS[name].equal, FOLDERS[name].why)
    theirs = convert(folder) if ours else []
    if convert.is_debian and name in UNREAD_BY_DEBIAN:
        assert not theirs
        return
    for volume in ours:
        nearest = min(measure_difference(volume, *image) for image in theirs)
        # Theirs are scaled in float64 by the header's slope, ours in float32.
        assert nearest <= 1e-6 * np.abs(volume.pixels).max(), "int16 is equal to the bit"


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in SINGLE_FILES.items() for file in files])
def test_single_slices_have_the_values_of_dcm2niix(name, file, convert, real_data, tmp_path):
    ours = load_file(real_data / "dicom_series" / name / file, frozenset({"derived", "hu"}))
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(real_data / "dicom_series" / name / file, alone)
    theirs = convert(alone)
    if convert.is_debian and file in UNREAD_BY_DEBIAN:
        assert not theirs
        return
    assert len(theirs) == 1
    np.testing.assert_allclose(ours.pixels, theirs[0][0][:, ::-1, 0, 0].T, rtol=1e-6)
