"""Scoring rules give what the published code gives: published_cases.json holds its scores of answers that were written
for it. A line is rule, settings, metric, template, reference, answer and the score; a reference with options is
[answer, texts of the letters, choices if these are no letters].
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.config import component, kinds
from medvlm.core.measure import ByTemplate
from medvlm.core.sample import Truth, make_truth
from medvlm.core.scoring import FOLDER, dump_rule, list_rule_measures, name_source

CASES = json.loads((Path(__file__).parent / "published_cases.json").read_text(encoding="utf-8"))


def make_reference(written: Any) -> Truth:
    if isinstance(written, str):
        is_choice = written in ("yes", "no")
        return make_truth("choice", written, choices=("yes", "no")) if is_choice else make_truth("open", written)
    answer, texts, *choices = written
    if choices:
        return make_truth("choice", answer, choices=tuple(choices[0]))
    return make_truth("choice", answer, choices=tuple("ABCDE"[: len(texts)]), options=tuple(texts))


def score(kind: str, settings: dict[str, Any], metric: str, template: str, truth: Truth, answer: str) -> float:
    (measure,) = [each for each in list_rule_measures([{"kind": kind, **settings}]) if each.metric == metric]
    assert measure.group == kind and measure.is_about(template, truth)
    columns: Any = measure.columns.of(template) if isinstance(measure.columns, ByTemplate) else measure.columns
    value, count = columns(answer, truth)
    assert count == 1
    return float(value)


@pytest.mark.parametrize("kind", kinds(FOLDER))
def test_a_rule_scores_as_the_published_code_does(kind: str) -> None:
    cases = [case for case in CASES if case[0] == kind]
    assert len(cases) >= 40 and {0, 1} <= {case[-1] for case in cases}
    for _, settings, metric, template, reference, answer, expected in cases:
        found = score(kind, settings, metric, template, make_reference(reference), answer)
        assert found == pytest.approx(expected, abs=1e-12), (settings, metric, reference, answer)
    assert "arXiv" in name_source(kind) or "at 9b12e3b" in name_source(kind)


def test_the_rules_disagree_on_a_closed_answer_with_both_words() -> None:
    """`nodule` has `no` in it."""
    truth, answer = make_truth("choice", "yes", choices=("yes", "no")), "Yes, there is a nodule."
    of = {
        kind: score(kind, {}, "accuracy_closed", "closed:pres", truth, answer) for kind in ("llava_med", "medevalkit")
    }
    assert of == {"llava_med": 1, "medevalkit": 0} and component("tasks", truth.task).score(answer, truth) == 1


def test_which_questions_are_closed_decides_the_total_of_medevalkit() -> None:
    """`left` is an open question where yes and no make closed ones, and a closed one where the archive says so."""
    truth = make_truth("open", "left")
    counted = Counter(
        (settings.get("closed"), each.metric)
        for settings in ({}, {"closed": "typed"})
        for each in list_rule_measures([{"kind": "medevalkit", **settings}])
        if each.is_about("closed:pos", truth)
    )
    assert set(counted) == {
        (None, "accuracy"), (None, "accuracy_open"), ("typed", "accuracy"), ("typed", "accuracy_closed"),
    }  # fmt: skip
    assert score("medevalkit", {"closed": "typed"}, "accuracy", "closed:pos", truth, "Left.") == 1
    assert score("medevalkit", {}, "accuracy", "closed:pos", truth, "Left.") == 0


def test_reports_and_labels_are_not_scored_by_a_rule() -> None:
    truths = [make_truth("report", "Clear."), make_truth("labels", classes=("a", "b"), labels=(True, False))]
    measures = [each for kind in kinds(FOLDER) for each in list_rule_measures([dump_rule(kind)])]
    assert not [(each.group, each.metric, t.task) for each in measures for t in truths if each.is_about("x", t)]
