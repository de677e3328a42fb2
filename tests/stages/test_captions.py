"""Which texts are read of a sample: parts of its report, several of them, and texts written from labels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from medvlm.core.errors import DataError
from medvlm.core.sample import Question, Sample, make_truth
from medvlm.core.terminology import Terminology
from medvlm.stages._captions import Captions, Drawn, Labels, draw_texts, split_sections

REPORT = "Liver: Normal size. No lesion. KIDNEYS: Two cysts. No stone! Bones: intact"
TEXTS = ("Liver: Normal size. No lesion.", "KIDNEYS: Two cysts. No stone!", "Bones: intact")


def told(position: int, report: str = REPORT, key: str = "k", **settings: Any) -> list[str]:
    config = Captions.model_validate(settings)
    return [each.text for each in draw_texts(config, Sample(key, "s", "train", report=report), 4, 7, "pair", position)]


def test_sections_begin_at_their_headings_and_keep_them() -> None:
    found = split_sections(REPORT, ("liver", "kidneys", "spleen", "bones"))
    assert found == dict(zip(("liver", "kidneys", "bones"), TEXTS, strict=True))
    assert split_sections("The liver: see below", ("liver",)) == {}, "a heading begins a line or a sentence"


def test_a_section_is_drawn_by_position_and_a_report_without_one_is_read_whole() -> None:
    settings: dict[str, Any] = {"reads": "section", "headings": ["liver", "kidneys", "bones"]}
    seen = Counter(told(position, **settings)[0] for position in range(300))
    assert set(seen) == set(TEXTS) and min(seen.values()) > 70
    assert told(5, **settings) == told(5, **settings)
    assert told(0, report="Nothing found.", **settings) == ["Nothing found."]


def test_without_headings_of_its_own_a_section_is_findings_or_impression() -> None:
    report = "HISTORY: Cough.\nFINDINGS: Clear lungs.\nIMPRESSION: Normal."
    assert {told(position, report=report, reads="section")[0] for position in range(20)} == {"Clear lungs.", "Normal."}


def test_parts_are_read_by_their_shares() -> None:
    settings: dict[str, Any] = {"reads": {"report": 3, "section": 1}, "headings": ["liver", "kidneys"]}
    seen = Counter(told(position, **settings)[0] == REPORT for position in range(800))
    assert 0.7 < seen[True] / 800 < 0.8


def test_all_samples_of_a_step_read_the_same_part_and_organ() -> None:
    settings: dict[str, Any] = {
        "reads": {"report": 1, "section": 1},
        "headings": ["liver", "kidneys"],
        "reads_alike": True,
    }
    steps = [{told(4 * step + i, key=str(i), **settings)[0] for i in range(4)} for step in range(40)]
    assert all(len(step) == 1 for step in steps)
    assert {text for step in steps for text in step} == {REPORT, TEXTS[0], TEXTS[1] + " Bones: intact"}
    apart = [
        {told(4 * step + i, key=str(i), **{**settings, "reads_alike": False})[0] for i in range(4)} for step in range(9)
    ]
    assert max(map(len, apart)) > 1


def test_several_texts_of_a_sample_differ_as_long_as_it_has_others() -> None:
    for position in range(10):
        found = told(position, reads="sentence", captions=3, report="One. Two. Three. Four.")
        assert len(set(found)) == 3
        assert sorted(told(position, reads="sentence", captions=4, report="One. Two.")) == [
            "One.",
            "One.",
            "Two.",
            "Two.",
        ]
    alone, several = (told(3, reads="sentence", captions=n) for n in (1, 2))
    assert several[0] == alone[0]


def labelled(*questions: Question, report: str = "") -> Sample:
    return Sample("k", "s", "train", report=report, questions=questions)


DICTIONARY = Terminology(version="1", entries={"mild": ("few microaneurysms", "no other lesion")})
MILD = Question("Which grade?", make_truth("choice", "mild", choices=("none", "mild")), "grade")
BOTH = Question(
    "What?", make_truth("labels", classes=("a", "b", "c"), labels=(True, False, True), exclusive=False), "grade"
)


def write(sample: Sample, position: int = 0, **settings: Any) -> Drawn:
    config = Captions(labels=Labels(of="grade", **settings))
    (found,) = draw_texts(config, sample, 4, 7, "pair", position)
    return found


def test_a_label_is_written_as_its_name_or_as_a_description_by_an_expert() -> None:
    """FLAIR: the label stays the same, so both match all samples of that label."""
    settings: dict[str, Any] = {
        "sentences": ("A photograph of {label}.", "Fundus: {label}"),
        "dictionary": DICTIONARY,
        "described": 0.5,
    }
    seen = Counter(write(labelled(MILD), position, **settings) for position in range(600))
    phrases = ("mild", "few microaneurysms", "no other lesion")
    texts = {s.replace("{label}", phrase) for s in settings["sentences"] for phrase in phrases}
    assert {each.text for each in seen} == texts and {each.label for each in seen} == {"mild"}
    assert 0.44 < sum(n for each, n in seen.items() if "mild" in each.text) / 600 < 0.56
    off = {write(labelled(MILD), position, sentences=settings["sentences"]).text for position in range(50)}
    assert off == {s.replace("{label}", "mild") for s in settings["sentences"]}, "no dictionary, no descriptions"


def test_one_of_several_labels_is_drawn_and_a_caption_is_read_where_there_is_none() -> None:
    assert {write(labelled(BOTH), position).label for position in range(30)} == {"a", "c"}
    assert write(labelled(report="Clear lungs.")) == Drawn("Clear lungs.")
    with pytest.raises(DataError, match="has no report, and no label"):
        write(labelled())


def test_a_sentence_without_a_place_for_the_label_is_refused() -> None:
    with pytest.raises(ValueError, match="has no place for the label"):
        Labels(of="grade", sentences=("A photograph.",))
