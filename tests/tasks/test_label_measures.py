"""Measures of class scores, class by class, against scikit-learn: with missing labels, ties and unreadable answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from medvlm.core.measure import AtPoints, Measure
from medvlm.metrics.bootstrap import value
from medvlm.tasks import labels
from medvlm.tasks.labels import Truth

MEASURE = {measure.metric: measure for measure in labels.MEASURES}
FINDINGS = ("edema", "effusion", "mass")
GRADES = ("none", "mild", "severe", "proliferative")


def many(*known: bool | None) -> Truth:
    return Truth(classes=FINDINGS, labels=known, exclusive=False)


def grade(number: int) -> Truth:
    return Truth(classes=GRADES, labels=tuple(number == n for n in range(len(GRADES))), ordered=True)


def of_classes(metric: str, answers: Any, truths: Any, points: Any = None) -> dict[str, float]:
    measure: Measure = MEASURE[metric]
    columns: Any = measure.columns.at(points or {}) if isinstance(measure.columns, AtPoints) else measure.columns
    items: dict[str, list[Any]] = {}
    for answer, truth in zip(answers, truths, strict=True):
        for name, row in columns(answer, truth).items():
            items.setdefault(name, []).append(row)
    with np.errstate(invalid="ignore"):
        return {name: value(np.array(rows), measure.statistic) for name, rows in items.items()}


def draw_findings(seed: int, count: int = 60) -> tuple[list[list[float]], list[Truth]]:
    """One label in five is not known, and scores have ties."""
    rng = np.random.default_rng(seed)
    is_there = rng.random((count, 3)) < (0.5, 0.3, 0.1)
    known = rng.random((count, 3)) < 0.8
    scores = np.round(np.clip(rng.normal(0.3 + 0.3 * is_there, 0.2), 0, 1), 2)
    labels_NK = is_there.astype(object)
    labels_NK[~known] = None
    return scores.tolist(), [many(*labels_K) for labels_K in labels_NK.tolist()]


def test_each_class_has_the_measures_of_scikit_learn_over_its_known_labels() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(10):
        answers, truths = draw_findings(seed)
        points = labels.choose_points(*draw_findings(seed + 100))
        found = {metric: of_classes(metric, answers, truths, points) for metric in MEASURE if metric != "accuracy"}
        assert found["f1_at_0.5"] == {} and set(found["f1"]) == set(FINDINGS)
        for number, name in enumerate(FINDINGS):
            rows = [(a[number], t.labels[number]) for a, t in zip(answers, truths, strict=True)]
            scores, y = np.array([row for row in rows if row[1] is not None], dtype=float).T
            if y.min() == y.max():
                continue
            told = scores >= points[name]
            assert found["auroc"][name] == pytest.approx(metrics.roc_auc_score(y, scores), abs=1e-6)
            assert found["ap"][name] == pytest.approx(metrics.average_precision_score(y, scores), abs=1e-6)
            assert found["f1"][name] == pytest.approx(metrics.f1_score(y, told), abs=1e-6)
            assert found["kappa"][name] == pytest.approx(metrics.cohen_kappa_score(y, told), abs=1e-6)
            assert found["brier"][name] == pytest.approx(metrics.brier_score_loss(y, scores), abs=1e-6)


def test_classes_that_exclude_each_other_have_the_kappa_of_the_most_probable_one() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 50)
    answers = (rng.dirichlet(np.ones(4), 50) + np.eye(4)[true] * 0.2).clip(0, 1)
    told, truths = answers.argmax(axis=1), [grade(n) for n in true.tolist()]
    found = of_classes("kappa", answers.tolist(), truths), of_classes("kappa_quadratic", answers.tolist(), truths)
    assert found[0] == {"": pytest.approx(metrics.cohen_kappa_score(true, told), abs=1e-6)}
    assert found[1] == {"": pytest.approx(metrics.cohen_kappa_score(true, told, weights="quadratic"), abs=1e-6)}


def test_only_classes_in_an_order_have_a_quadratic_kappa() -> None:
    is_about = MEASURE["kappa_quadratic"].is_about
    assert is_about("", grade(1)) and not is_about("", many(True, None, False))
    assert not is_about("", Truth(classes=("ap", "pa"), labels=(True, False)))


@pytest.mark.parametrize("answer", [None, "none", [0.5], [math.nan] * 4, [0.25] * 4])
def test_an_answer_that_names_no_grade_is_as_far_off_as_can_be(answer: Any) -> None:
    columns: Any = MEASURE["kappa_quadratic"].columns
    assert columns(answer, grade(0)) == {"": (0, 3)} and columns(answer, grade(2)) == {"": (2, 0)}


def test_an_answer_that_cannot_be_read_says_the_opposite_of_every_label() -> None:
    truth = many(True, None, False)
    everything: Any = {"edema": 0.0, "effusion": 0.0, "mass": 0.0}
    for points in ({}, everything):
        metric = "f1" if points else "f1_at_0.5"
        columns: Any = MEASURE[metric].columns
        assert columns.at(points)("unreadable", truth) == {"edema": (0, 0, 1), "mass": (0, 1, 0)}
    assert of_classes("brier", ["?"], [truth]) == {"edema": 1, "mass": 1}
    assert of_classes("kappa", ["?", None], [truth, many(False, True, True)])["mass"] == pytest.approx(-1)


def test_a_threshold_is_chosen_where_both_labels_are_known() -> None:
    truths = [many(True, True, None), many(False, True, None), many(True, None, None)]
    answers = [[0.6, 0.6, 0.6], [0.5, 0.5, 0.5], [0.55, 0.5, 0.5]]
    assert labels.choose_points(answers, truths) == {"edema": 0.55}
    assert labels.choose_points(["unreadable"] * 3, truths) == {}
    assert of_classes("f1", answers, truths, {"edema": 0.55}) == {"edema": 1}
    assert of_classes("f1_at_0.5", answers, truths, {"edema": 0.55}) == {"effusion": pytest.approx(2 / 3)}


def test_without_positives_nothing_is_ranked_and_f1_is_that_of_its_false_alarms() -> None:
    truths, answers = [many(False, None, True)] * 3, [[0.2, 0.3, 0.9]] * 3
    for metric in ("auroc", "ap", "f1_at_0.5", "sensitivity_at_0.9", "kappa"):
        assert math.isnan(of_classes(metric, answers, truths)["edema"]), metric
    assert of_classes("f1_at_0.5", [[0.8, 0.3, 0.9]] * 3, truths) == {"edema": 0, "mass": 1}
    assert of_classes("brier", answers, truths) == {"edema": pytest.approx(0.04), "mass": pytest.approx(0.01)}


def test_the_best_constants() -> None:
    """Of F1 it is all positive, of the Brier score the share."""
    _, truths = draw_findings(1)
    shares = labels.best_constant(truths, MEASURE["brier"])
    for metric, better in (("f1_at_0.5", max), ("brier", min)):
        best = labels.best_constant(truths, MEASURE[metric])
        others = [[p] * 3 for p in np.linspace(0, 1, 11)] + [shares]
        found = [np.nanmean([*of_classes(metric, [other] * 60, truths).values()]) for other in [best, *others]]
        assert found[0] == pytest.approx(better(found), abs=1e-9), metric
    constant = [shares] * 60
    assert set(of_classes("auroc", constant, truths).values()) == {0.5}
    assert set(of_classes("sensitivity_at_0.9", constant, truths).values()) == {0}
    assert of_classes("ap", constant, truths)["edema"] == pytest.approx(shares[0], abs=1e-6)
    assert list(of_classes("ece", constant, truths).values()) == pytest.approx([0, 0, 0], abs=1e-6)
