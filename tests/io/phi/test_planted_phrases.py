"""What share of planted phrases is refused, by kind, and of real sentences wrongly."""

from __future__ import annotations

import csv
import json
import re

import pytest

from medvlm.io.phi.text import count_findings
from tests.io.phi.planted_phrases import BLIND, PLANTED

LEAST = 0.95
"""Share of each kind that must be refused."""
MOST_FALSE = 0.02
"""Share of real sentences that may be refused without a reason."""


def test_there_are_more_than_300_planted_phrases_and_no_phrase_twice():
    phrases = [phrase for listed in PLANTED.values() for phrase in listed]
    assert len(phrases) == len(set(phrases)) > 300


@pytest.mark.parametrize("kind", PLANTED)
def test_phrases_are_refused_alone_in_a_sentence_and_on_a_line_of_their_own(kind):
    missed = [
        phrase
        for phrase in PLANTED[kind]
        for whole in (phrase, f"No effusion. {phrase}. No pneumothorax.", f"Findings:\n{phrase}\nImpression: normal")
        if not count_findings(whole)
    ]
    assert len(set(missed)) <= (1 - LEAST) * len(PLANTED[kind]), missed


@pytest.mark.parametrize("kind", BLIND)
def test_the_guide_names_what_is_not_seen(kind):
    """A phrase that is found now belongs to the planted ones, and out of docs/data.md."""
    assert [phrase for phrase in BLIND[kind] if count_findings(phrase)] == []


def test_real_sentences_are_refused_only_for_their_dates(real_data):
    """The case notes, and the questions and answers, of all archives with texts; all that is refused is listed."""
    texts: list[str] = []
    for table in ("nc/cxr_cohen", "cxr_cohen_by"):
        with (real_data / table / "metadata.csv").open(encoding="utf-8-sig") as file:
            texts += [row["clinical_notes"] for row in csv.DictReader(file)]
    vqa = json.loads((real_data / "vqa_rad/VQA_RAD Dataset Public.json").read_text())
    slake = json.loads((real_data / "slake_questions/validate.json").read_text())
    texts += [str(row[name]) for row in vqa + slake for name in ("question", "answer")]
    sentences = {each.strip() for text in texts for each in re.split(r"(?<=[.!?。？])\s+|\n", text) if each.strip()}
    refused = sorted(each for each in sentences if count_findings(each))
    wrongly = [each for each in refused if not re.search(r"\d\d January 2020", each)]
    assert len(sentences) > 3000 and len(refused) - len(wrongly) == 3
    assert wrongly == [] and len(wrongly) <= MOST_FALSE * len(sentences)
