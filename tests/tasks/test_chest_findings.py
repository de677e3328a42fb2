"""Findings read in reports of chest radiographs: negation, doubt, sides, normal parts, and whole reports."""

from __future__ import annotations

import pytest

from medvlm.tasks.chest.findings import CLASSES as NAMES
from medvlm.tasks.chest.findings import Finding, read_findings, read_mentions
from tests.tasks.chest_cases import CASES, CLASSES, REPORTS

STATUSES = {"p": "present", "a": "absent", "u": "uncertain"}
SIDES = {"": "", ":l": "left", ":r": "right", ":b": "both"}


def read_labels(labels: str) -> dict[str, tuple[str, str]]:
    return {CLASSES[label[:2]]: (STATUSES[label[2]], SIDES[label[3:]]) for label in labels.split()}


@pytest.mark.parametrize(("text", "labels"), CASES)
def test_sentence_is_read_as_a_radiologist_reads_it(text: str, labels: str) -> None:
    found = {name: (finding.status, finding.side) for name, finding in read_mentions(text).items()}
    assert found == read_labels(labels)


@pytest.mark.parametrize(("text", "labels"), REPORTS)
def test_report_is_read_as_a_radiologist_reads_it(text: str, labels: str) -> None:
    found = {name: (finding.status, finding.side) for name, finding in read_findings(text).items()}
    assert found == read_labels(labels)


def test_every_class_is_read_somewhere() -> None:
    assert set(CLASSES.values()) == set(NAMES)
    assert {name for _, labels in CASES for name in read_labels(labels)} == set(NAMES)


def test_what_is_seen_once_is_seen() -> None:
    text = "No pleural effusion on the left. Small right pleural effusion. There may be a left effusion."
    assert read_findings(text) == {"pleural_effusion": Finding("present", "right")}


def test_a_report_without_findings_is_normal_if_it_says_something() -> None:
    assert read_findings("Heart size is normal. Right central venous catheter.")["no_finding"].status == "present"
    assert "no_finding" not in read_findings("Heart size is normal. Possible left effusion.")
    assert read_findings("") == read_findings("Portable view.") == {}
    assert "no_finding" not in read_findings("Right central venous catheter.")


def test_a_normal_image_with_a_finding_is_not_normal() -> None:
    assert set(read_findings("No acute process. Left upper lobe nodule.")) == {"lung_lesion"}
