"""The labels of real sentences: each belongs to one, and the sentences for judging are of other patients."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.finding_sentences import NUMBER, Sentence, draw, read_labels, read_sentences


@pytest.fixture(scope="module")
def sentences(real_data: Path) -> dict[str, Sentence]:
    if not (real_data / "nc" / "cxr_cohen").is_dir():
        pytest.skip(f"needs the non-commercial set cxr_cohen in {real_data}/nc")
    return read_sentences(real_data)


def test_every_label_belongs_to_a_sentence(sentences: dict[str, Sentence]) -> None:
    assert {each.hash for each in read_labels()} <= sentences.keys()


def test_the_sentences_were_drawn_by_the_seed(sentences: dict[str, Sentence]) -> None:
    labels = read_labels()
    assert {each.hash: each.part for each in labels} == draw([sentences[each.hash] for each in labels])


def test_tuning_and_judging_share_no_patient(sentences: dict[str, Sentence]) -> None:
    patients: dict[str, set[str]] = {"tune": set(), "judge": set(), "spare": set()}
    for each in read_labels():
        patients[each.part].add(sentences[each.hash].patient)
    assert patients["tune"].isdisjoint(patients["judge"])


def test_there_are_as_many_for_tuning_as_for_judging() -> None:
    parts = [each.part for each in read_labels()]
    assert parts.count("tune") == parts.count("judge") == NUMBER
