"""Masks that are written lie where their images lie, for other programs too."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom import dcmread

from medvlm.commands.files import list_dicom_files, read_files
from medvlm.core.errors import DataError
from medvlm.io.dicom.segmentation import write_dicom_mask
from medvlm.io.images import decode
from medvlm.io.mask_files import write_nifti_mask, write_png_mask
from medvlm.io.nifti import load_nifti
from tests.io.dicom.series import slices


def write_series(folder: Path, turn: tuple[float, float, float]) -> Path:
    """Slices whose names are not in their order."""
    folder.mkdir()
    for number, dataset in enumerate(slices(turn=turn)):
        dataset.save_as(folder / f"{(5 * number) % 8}.dcm", enforce_file_format=True)
    return folder


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (90.0, 0.0, 0.0), (12.0, -20.0, 7.0), (180.0, 10.0, 0.0)])
def test_highdicom_finds_every_marked_voxel_at_its_place_in_the_patient(
    turn: tuple[float, float, float], tmp_path: Path
) -> None:
    highdicom = pytest.importorskip("highdicom")
    series = write_series(tmp_path / "series", turn)
    sample, files = read_files([series], lambda axes: "volume")
    (medium,) = sample.media
    volume = decode(files[medium.member], medium.member)
    planes = np.stack([volume > 400, volume < -200])
    assert medium.affine is not None and planes.any((1, 2, 3)).all()
    write_dicom_mask(planes, ["bright", "dark"], medium.affine, list_dicom_files(series), tmp_path / "mask.dcm")
    read = highdicom.seg.segread(tmp_path / "mask.dcm")
    assert [read.get_segment_description(n).segment_label for n in (1, 2)] == ["bright", "dark"]
    first = dcmread(series / "0.dcm")
    for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert read[name].value == first[name].value
    found = read.get_volume(rescale_fractional=False)
    inverse = np.linalg.inv(found.affine)
    for number, plane in enumerate(planes):
        marked = np.argwhere(plane)
        ras = np.c_[marked, np.ones(len(marked))] @ np.array(medium.affine).T
        index = np.c_[ras * [-1, -1, 1], np.ones(len(ras))] @ inverse.T[:, :3]
        assert np.abs(index - index.round()).max() < 1e-3
        theirs = found.array[..., number]
        assert theirs[tuple(index.round().astype(int).T)].all() and theirs.sum() == len(marked)


def test_what_dicom_cannot_hold_is_refused(tmp_path: Path) -> None:
    series = write_series(tmp_path / "series", (0.0, 0.0, 0.0))
    affine: Any = tuple(map(tuple, np.eye(4)[:3].tolist()))
    empty = np.zeros((1, 8, 20, 24), bool)
    with pytest.raises(DataError, match=r"nothing was found, .* use \.nii\.gz"):
        write_dicom_mask(empty, ["liver"], affine, list_dicom_files(series), tmp_path / "mask.dcm")
    for path in series.iterdir():
        dataset = dcmread(path)
        del dataset.FrameOfReferenceUID
        dataset.save_as(path)
    with pytest.raises(DataError, match="has no FrameOfReferenceUID"):
        write_dicom_mask(~empty, ["liver"], affine, list_dicom_files(series), tmp_path / "mask.dcm")
    (tmp_path / "scan.nii").write_bytes(b"nothing")
    with pytest.raises(DataError, match="a DICOM mask refers to the patient and study of DICOM images, so use"):
        list_dicom_files(tmp_path / "scan.nii")
    assert not list(tmp_path.glob("mask*"))


SIDES = np.array([0.8, 1.5, 2.5])


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
def test_a_nifti_mask_has_the_grid_of_its_image_whatever_its_axes_are(
    order: tuple[int, ...], name: str, tmp_path: Path
) -> None:
    """Every order of the axes, with one or two of them turned around."""
    turned = np.where(np.arange(3) <= order[0], -1.0, 1.0)
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[list(order)] * (SIDES * turned)
    affine[:3, 3] = [11, -7, 3]
    volume = np.random.default_rng(0).integers(0, 900, (5, 6, 7)).astype(np.int16)
    image: Any = nibabel.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "scan.nii.gz")
    read = load_nifti(tmp_path / "scan.nii.gz")
    assert read.affine is not None
    labels = (read.pixels // 300).astype(np.uint8)
    write_nifti_mask(labels, read.affine, tmp_path / name, like=tmp_path / "scan.nii.gz")
    found: Any = nibabel.load(tmp_path / name)
    assert np.array_equal(np.asarray(found.dataobj), volume // 300) and found.get_data_dtype() == np.uint8
    assert np.allclose(found.affine, affine)
    write_nifti_mask(np.stack([labels == 1, labels == 2]), read.affine, tmp_path / name)
    again: Any = nibabel.as_closest_canonical(_load(tmp_path / name))
    expected: Any = nibabel.as_closest_canonical(nibabel.Nifti1Image((volume // 300).astype(np.uint8), affine))
    assert np.allclose(again.affine, expected.affine, atol=1e-5)
    assert np.array_equal(np.asarray(again.dataobj)[..., 1], np.asarray(expected.dataobj) == 2)


def _load(path: Path) -> Any:
    return nibabel.load(path)


def test_a_png_mask_holds_the_labels_as_they_are(tmp_path: Path) -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_png_mask(labels, tmp_path / "mask.png")
    assert np.array_equal(decode((tmp_path / "mask.png").read_bytes(), "mask.png"), labels)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]
