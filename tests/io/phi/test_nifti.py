"""Text fields and extensions of NIfTI headers, made with nibabel and read back from their files."""

from __future__ import annotations

from typing import Any, get_args

import nibabel
import numpy as np
import pytest

from medvlm.core.card import Checked
from medvlm.core.errors import DataError
from medvlm.io.phi.nifti import check

WORDS: tuple[Checked, ...] = get_args(Checked)


def save_and_read_header(path, kind: Any = nibabel.Nifti1Image, extension: bytes = b"", **fields: str | bytes):
    """Saves an image with these header fields and reads its header back."""
    image = kind(np.zeros((2, 3, 4), np.int16), np.eye(4))
    for name, value in fields.items():
        image.header[name] = value
    if extension:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", extension))
    nibabel.save(image, path)
    return nibabel.load(path).header


def reason_of(header: Any, checked: tuple[Checked, ...] = ()) -> str:
    try:
        check(header, checked)
    except DataError as reason:
        return str(reason)
    return ""


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_file_without_text_passes(tmp_path, kind):
    assert reason_of(save_and_read_header(tmp_path / "a.nii.gz", kind)) == ""


def test_a_hdr_img_pair_without_text_passes(tmp_path):
    assert reason_of(save_and_read_header(tmp_path / "a.hdr", nibabel.Nifti1Pair)) == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("descrip", "FSL5.0"),
        ("descrip", "FSL3.2beta"),
        ("descrip", "6.0.5:9e026117"),
        ("descrip", "spm - 3D normalized"),
        ("aux_file", "none"),
        ("descrip", "TE=5.8;Time=161353.260;phase=1"),
        ("descrip", "TE=1.2e+02;Time=172102.168;mb=4"),
        ("aux_file", "Red-Yellow"),
    ],
)
def test_text_that_programs_write_passes(tmp_path, field, value):
    assert reason_of(save_and_read_header(tmp_path / "a.nii", **{field: value})) == ""


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("descrip", "Kowalczyk^Ewa", "descriptions"),
        ("descrip", "FSL5.0 Kowalczyk", "descriptions"),
        ("descrip", "TE=5.8;Time=161353.260;Kowalczyk", "descriptions"),
        ("descrip", b"FSL5.0\0\0Kowalczyk", "descriptions"),
        ("aux_file", "Kowalczyk.txt", "descriptions"),
        ("aux_file", b"none\0Kowalczyk", "descriptions"),
        ("intent_name", "Kowalczyk", "descriptions"),
        ("db_name", "Kowalczyk", "pseudonyms"),
        ("data_type", "Kowalczyk", "descriptions"),
    ],
)
def test_other_text_is_refused_and_its_field_named(tmp_path, field, value, word):
    header = save_and_read_header(tmp_path / "a.nii", **{field: value})
    said = reason_of(header)
    assert f"may identify a person: {field};" in said and "owalczyk" not in said and f"add {word} to" in said
    assert reason_of(header, (word,)) == "" and reason_of(header, tuple(w for w in WORDS if w != word)) != ""


def test_an_analyze_header_with_a_patient_is_refused(tmp_path):
    header = nibabel.AnalyzeHeader()
    header["patient_id"], header["exp_date"] = "Kowalczyk", "1937051312"
    said = reason_of(header)
    assert (
        "patient_id, exp_date" in said
        and "add dates, pseudonyms to" in said
        and "owalczyk" not in said
        and "1937" not in said
    )


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_an_extension_is_refused(tmp_path, kind):
    header = save_and_read_header(tmp_path / "a.nii", kind, extension=b"Kowalczyk")
    said = reason_of(header)
    assert "header extension of code 6" in said and "owalczyk" not in said and reason_of(header, ("private",)) == ""


@pytest.mark.parametrize(("kind", "size"), [(nibabel.Nifti1Header, 348), (nibabel.Nifti2Header, 540)])
def test_a_header_without_its_file_is_refused_if_there_is_room_for_an_extension(tmp_path, kind, size):
    image = nibabel.Nifti1Image if size == 348 else nibabel.Nifti2Image
    for extension, passes in ((b"", True), (b"Kowalczyk", False)):
        save_and_read_header(tmp_path / "a.nii", image, extension=extension)
        header = kind((tmp_path / "a.nii").read_bytes()[:size], check=False)
        assert (reason_of(header) == "") == passes and reason_of(header, ("private",)) == ""


def test_real_volumes_pass_except_those_with_text(real_data):
    refused, seen = {}, 0
    for path in sorted(p for p in (real_data / "volumes").rglob("*.nii*")):
        try:
            header = nibabel.load(path).header
        except Exception:
            continue
        if isinstance(header, nibabel.Nifti1Header):
            seen += 1
            refused |= {path.name: said} if (said := reason_of(header)) else {}
    assert seen > 60
    # Remnants of memory after a colour map, drawings and label names in extensions, and text of an older FSL.
    assert refused.keys() == {
        "t2_labeled_center_manual.nii.gz",
        "with_extension.nii.gz",
        "example_seg.nii.gz",
        "example_seg_dicom.nii.gz",
        "example_seg_fast.nii.gz",
        "example4d.nii.gz",
        "example_nifti2.nii.gz",
    }
