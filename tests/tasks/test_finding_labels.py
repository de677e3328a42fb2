"""The labels of real sentences, and how often the rules agree with them; `python tests/tasks/test_finding_labels.py`
prints it by class (see docs/benchmarks.md)."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from medvlm.tasks.chest.findings import read_mentions
from tests.fixtures.finding_sentences import NUMBER, Sentence, draw, read_labels, read_sentences


def compare(sentences: dict[str, Sentence], part: str, has_side: bool = False) -> dict[str, Counter[str]]:
    """Class, or "" for all -> counts TP, FP, FN of labels (sentence, class, status, and side if wanted). A label with
    another status or side is both a false positive and a false negative."""
    counts: dict[str, Counter[str]] = {"": Counter()}
    for each in read_labels():
        if each.part == part:
            read = {name: (said.status, said.side) for name, said in read_mentions(sentences[each.hash].text).items()}
            found, expected = ({(n, *v[: 1 + has_side]) for n, v in of.items()} for of in (read, each.labels))
            for what, labels in (("TP", found & expected), ("FP", found - expected), ("FN", expected - found)):
                for name in (label[0] for label in labels):
                    counts[""][what] += 1
                    counts.setdefault(name, Counter())[what] += 1
    return counts


def f1(counts: Counter[str]) -> float:
    return 2 * counts["TP"] / (2 * counts["TP"] + counts["FP"] + counts["FN"])


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


@pytest.mark.parametrize(("part", "least", "least_with_side"), [("tune", 0.97, 0.95), ("judge", 0.92, 0.92)])
def test_rules_agree_with_the_labels(
    sentences: dict[str, Sentence], part: str, least: float, least_with_side: float
) -> None:
    assert f1(compare(sentences, part)[""]) >= least
    assert f1(compare(sentences, part, has_side=True)[""]) >= least_with_side


def print_agreement(data: Path) -> None:
    sentences = read_sentences(data)
    for part in ("tune", "judge"):
        with_side = f1(compare(sentences, part, has_side=True)[""])
        for name, counts in sorted(compare(sentences, part).items()):
            aside = "" if name else f", with side {with_side:.3f}"
            numbers = " ".join(f"{what} {counts[what]}" for what in ("TP", "FP", "FN"))
            print(f"{part:6} {name or 'all':27} n {counts['TP'] + counts['FN']:3} {numbers} F1 {f1(counts):.3f}{aside}")


if __name__ == "__main__":
    print_agreement(Path(os.environ["MEDVLM_DATA"]))
