"""Sections of reports as they are written in the archives."""

from __future__ import annotations

import pytest

from medvlm.tasks._sections import drop_history, read_sections

CASES = [
    ("Lungs are clear.", {"": "Lungs are clear."}),
    ("", {}),
    ("FINDINGS: Lungs clear.\n\nIMPRESSION: Normal.", {"findings": "Lungs clear.", "impression": "Normal."}),
    ("Findings: Lungs clear. Impression: Normal.", {"findings": "Lungs clear.", "impression": "Normal."}),
    ("**Findings:** Clear.\n**Conclusion:** Normal.", {"findings": "Clear.", "impression": "Normal."}),
    (
        "INDICATION: Fever.\nCOMPARISON: None.\nFINDINGS AND IMPRESSION:\nClear.",
        {"history": "Fever.\n\nNone.", "findings": "Clear."},
    ),
    ("Portable view. FINDINGS: Clear.", {"": "Portable view.", "findings": "Clear."}),
    ("There are new findings: a nodule.", {"": "There are new findings: a nodule."}),
    ("The impression is that of edema.", {"": "The impression is that of edema."}),
    ("FINDINGS:\nIMPRESSION: Normal.", {"impression": "Normal."}),
]


@pytest.mark.parametrize(("text", "sections"), CASES)
def test_sections_are_read_by_their_headings(text: str, sections: dict[str, str]) -> None:
    assert read_sections(text) == sections


def test_history_is_left_out() -> None:
    assert drop_history("HISTORY: Pneumonia. FINDINGS: Clear.") == "Clear."
