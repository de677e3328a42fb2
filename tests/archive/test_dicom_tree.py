"""A tree of DICOM files becomes studies with their media, patients and reports."""

import numpy as np
import pydicom
import pytest

from medvlm.archive.readers.dicom_tree import Config, read
from medvlm.core.contracts import LeftOut, RawSample
from medvlm.core.errors import DataError
from tests.io.dicom.series import image, save, slices
from tests.io.dicom.test_hostile import dicomdir

MEDIA = [{"kind": "volume", "modality": ["CT"]}, {"kind": "film", "modality": ["DX"]}]


def config(**settings):
    return Config.model_validate({"kind": "dicom_tree", "media": MEDIA, **settings})


@pytest.fixture
def tree(tmp_path):
    made = slices()
    film = image(
        np.arange(16).reshape(4, 4),
        modality="DX",
        StudyInstanceUID=made[0].StudyInstanceUID,
        ViewPosition="PA",
        BodyPartExamined="Erika",
    )
    save([*made, film, image(np.arange(16).reshape(4, 4), modality="US", bits=8)], tmp_path / "a")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "r.csv").write_text("accession,text\nACC-0815,All clear.\n")
    return tmp_path


def test_a_study_is_a_sample_with_its_media_patient_and_report(tree):
    reports = {"file": "r.csv", "column": "accession", "holds": "AccessionNumber"}
    *samples, one, two = read(config(reports=reports, report="{text}"), tree)
    assert (
        len(samples) == 1
        and isinstance(samples[0], RawSample)
        and isinstance(one, LeftOut)
        and isinstance(two, LeftOut)
    )
    sample = samples[0].sample
    assert (sample.patient, sample.report, sorted(m.kind for m in sample.media)) == (
        "PAT-4711",
        "All clear.",
        ["film", "volume"],
    )
    assert sorted(load().pixels.ndim for load in samples[0].files.values()) == [2, 3]
    assert {one.reason: one.count, two.reason: two.count} == {
        "not a DICOM file": 1,
        "of modality US, which the card does not name": 1,
    }


def test_each_medium_can_be_a_sample_and_only_known_terms_get_into_texts(tree):
    found = [
        x
        for x in read(config(sample="medium", report="{ViewPosition}{BodyPartExamined}"), tree)
        if isinstance(x, RawSample)
    ]
    assert len(found) == 2 and {x.sample.report for x in found} == {""}, "a name stands where a body part should"


def test_a_card_that_asks_for_free_text_is_refused(tree):
    with pytest.raises(DataError, match="not an attribute that texts may use"):
        list(read(config(report="{PatientName}"), tree))


def test_reports_are_found_by_series_and_a_study_says_each_once(tree):
    """The film and the CT of the study have reports of their own; of the CT there is one for its eight slices."""
    headers = [
        pydicom.dcmread(path, stop_before_pixels=True) for path in (tree / "a").iterdir() if path.suffix != ".txt"
    ]
    of = {ds.Modality: ds.SeriesInstanceUID for ds in headers}
    (tree / "s.csv").write_text(f"series,text\n{of['CT']},No nodule.\n{of['DX']},All clear.\n1.2.3,Of nobody.\n")
    reports = {"file": "s.csv", "column": "series", "holds": "SeriesInstanceUID"}
    (whole,) = (x for x in read(config(reports=reports, report="{text}"), tree) if isinstance(x, RawSample))
    assert sorted(whole.sample.report.split("\n")) == ["All clear.", "No nodule."]
    apart = [
        x for x in read(config(reports=reports, report="{text}", sample="medium"), tree) if isinstance(x, RawSample)
    ]
    assert {x.sample.media[0].kind: x.sample.report for x in apart} == {"film": "All clear.", "volume": "No nodule."}
    (tree / "s.csv").write_text("series,text\n1.2.3,Of nobody.\n")
    found = list(read(config(reports=reports, report="{text}"), tree))
    assert [x.sample.report for x in found if isinstance(x, RawSample)] == [""]
    assert ("report: the table has none for the sample", 1) in [
        (x.reason, x.count) for x in found if isinstance(x, LeftOut)
    ]


def test_a_dicomdir_gives_what_the_folder_gives_and_counts_what_is_gone(tree):
    """The files of the CT, of which one is not there, and nothing that it does not name."""
    paths = sorted(
        path for path in (tree / "a").iterdir() if path.suffix != ".txt" and pydicom.dcmread(path).Modality == "CT"
    )
    dicomdir([["A", path.name] for path in paths] + [["A", "GONE"]]).save_as(
        tree / "DICOMDIR", enforce_file_format=True
    )
    sample, gone = read(config(under="DICOMDIR"), tree)
    assert isinstance(sample, RawSample) and isinstance(gone, LeftOut)
    folder = next(x for x in read(config(), tree) if isinstance(x, RawSample))
    volume = next(m.member for m in folder.sample.media if m.kind == "volume")
    assert np.array_equal(sample.files["0"]().pixels, folder.files[volume]().pixels)
    assert (sample.sample.patient, len(sample.sample.media), gone.count) == (
        "PAT-4711",
        1,
        1,
    ) and gone.reason.startswith("named by the DICOMDIR")


@pytest.mark.parametrize("name", ["DICOMDIR", "DICOMDIR-bigEnd", "DICOMDIR-implicit", "DICOMDIR-reordered"])
def test_a_real_dicomdir_gives_what_its_folder_gives(real_data, name):
    """pydicom's own, of three patients, whose images are cut to 16 x 16 pixels."""
    root = real_data / "dicom_pydicom" / "dicomdirtests"
    settings = {
        "media": [{"kind": "volume", "modality": ["CT", "MR"]}, {"kind": "film", "modality": ["CR"]}],
        "sample": "medium",
    }
    folder, directory = (
        {x.sample.key: x for x in read(config(under=under, **settings), root) if isinstance(x, RawSample)}
        for under in (".", name)
    )
    assert folder.keys() == directory.keys() and len(folder) == 4
    assert all(
        np.array_equal(each.files["0"]().pixels, folder[key].files["0"]().pixels) for key, each in directory.items()
    )
