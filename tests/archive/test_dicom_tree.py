"""A tree of DICOM files becomes studies with their media, patients and reports."""

import numpy as np
import pytest

from medvlm.archive.readers.dicom_tree import Config, read
from medvlm.core.contracts import LeftOut, RawSample
from medvlm.core.errors import DataError
from tests.io.dicom.series import image, save, slices

MEDIA = [{"kind": "volume", "modality": ["CT"]}, {"kind": "film", "modality": ["DX"]}]


def config(**settings):
    return Config.model_validate({"kind": "dicom_tree", "media": MEDIA, **settings})


@pytest.fixture
def tree(tmp_path):
    made = slices()
    film = image(np.arange(16).reshape(4, 4), modality="DX", StudyInstanceUID=made[0].StudyInstanceUID, ViewPosition="PA", BodyPartExamined="Erika")
    save([*made, film, image(np.arange(16).reshape(4, 4), modality="US", bits=8)], tmp_path / "a")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "r.csv").write_text("accession,text\nACC-0815,All clear.\n")
    return tmp_path


def test_a_study_is_a_sample_with_its_media_patient_and_report(tree):
    reports = {"file": "r.csv", "column": "accession", "holds": "AccessionNumber"}
    *samples, one, two = read(config(reports=reports, report="{text}"), tree)
    assert len(samples) == 1 and isinstance(samples[0], RawSample) and isinstance(one, LeftOut) and isinstance(two, LeftOut)
    sample = samples[0].sample
    assert (sample.patient, sample.report, sorted(m.kind for m in sample.media)) == ("PAT-4711", "All clear.", ["film", "volume"])
    assert sorted(load().pixels.ndim for load in samples[0].files.values()) == [2, 3]
    assert {one.reason: one.count, two.reason: two.count} == {"not a DICOM file": 2, "of modality US, which the card does not name": 1}


def test_each_medium_can_be_a_sample_and_only_known_terms_get_into_texts(tree):
    found = [x for x in read(config(sample="medium", report="{ViewPosition}{BodyPartExamined}"), tree) if isinstance(x, RawSample)]
    assert len(found) == 2 and {x.sample.report for x in found} == {""}, "a name stands where a body part should"


def test_a_card_that_asks_for_free_text_is_refused(tree):
    with pytest.raises(DataError, match="not an attribute that texts may use"):
        list(read(config(report="{PatientName}"), tree))
