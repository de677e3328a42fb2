"""Every measure of every task equals a reference on shared cases, among them empty, tied and one-class ones: those that
no other test compares, and a table of where each is compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import f1_score
from torchmetrics.functional.retrieval import retrieval_hit_rate
from torchmetrics.functional.text import rouge_score, squad
from torchvision.ops import box_iou

from medvlm.core.measure import OfJudge
from medvlm.core.tasks import find_task, list_tasks
from medvlm.evaluate.measures import join_measures
from medvlm.metrics.bootstrap import value
from medvlm.metrics.retrieval import chance, ranks, top
from medvlm.tasks import _brackets, _indexed, boxes, choice, count, indexed_boxes, labels, open, quantity, report

metrics = pytest.importorskip("sklearn.metrics")
TESTS = Path(__file__).parent.parent
HERE = "metrics/test_references.py"
OF_LABELS = "tasks/test_label_measures.py:test_each_class_has_the_measures_of_scikit_learn_over_its_known_labels"
OF_SETS = "tasks/test_findings.py:test_measures_are_those_of_scikit_learn_on_sets_with_their_parents"
OF_SURVIVAL = "metrics/test_survival.py:test_metrics_are_those_of_their_definitions"
OF_LENGTHS = "tasks/test_measure.py:test_measures_keep_units_apart_and_count_what_cannot_be_read"
OF_OBJECTS = "tasks/test_mask_objects.py"
COMPARED = {
    "vqa accuracy": f"{HERE}:test_accuracy",
    "vqa f1_open": f"{HERE}:test_words_of_short_answers",
    "vqa recall_open": f"{HERE}:test_words_of_short_answers",
    "count mae": f"{HERE}:test_counts",
    "count correlation": "tasks/test_count.py:test_the_correlation_is_that_of_the_standard_library",
    "count exact": f"{HERE}:test_counts",
    "quantity mae": f"{HERE}:test_quantities",
    "quantity rmse": f"{HERE}:test_quantities",
    "quantity correlation": f"{HERE}:test_quantities",
    "survival c_index": OF_SURVIVAL,
    "survival auroc_by": OF_SURVIVAL,
    "survival brier_by": OF_SURVIVAL,
    "detect map_10": "tasks/test_detect.py:test_average_precision_is_that_of_torchmetrics",
    "detect map_50": "tasks/test_detect.py:test_average_precision_is_that_of_torchmetrics",
    "detect froc_10": "tasks/test_detect.py:test_the_froc_score_is_monais",
    "boxes mean_iou": f"{HERE}:test_boxes",
    "boxes hit_rate": f"{HERE}:test_boxes",
    "indexed_boxes mean_iou": f"{HERE}:test_boxes_by_image",
    "indexed_boxes hit_rate": f"{HERE}:test_boxes_by_image",
    "indexed_boxes numbers": f"{HERE}:test_boxes_by_image",
    "boxes ap50": "tasks/test_boxes.py:test_average_precision_is_that_of_sklearn_times_recall",
    "report bleu": "metrics/test_text.py:test_bleu_is_that_of_pycocoevalcap",
    "report rouge_l": "metrics/test_text.py:test_rouge_l_is_that_of_pycocoevalcap",
    "report cider": "metrics/test_text.py:test_cider_is_that_of_pycocoevalcap",
    "report token_f1": f"{HERE}:test_words_of_reports",
    "report token_recall": f"{HERE}:test_words_of_reports",
    "report finding_f1": "tasks/test_report_findings.py:test_finding_f1_equals_torchmetrics_on_the_labels",
    "report temporal_f1": "tasks/test_report_findings.py:test_temporal_f1_is_that_of_the_sets_of_words",
    "findings set_f1": OF_SETS,
    "findings exact": OF_SETS,
    "findings micro_f1": OF_SETS,
    "findings macro_f1": OF_SETS,
    "labels accuracy": f"{HERE}:test_labels",
    "labels auroc": "metrics/test_rank.py:test_it_is_the_mann_whitney_statistic_of_scipy",
    "labels ap": "metrics/test_rank_of_labels.py:test_they_are_those_of_scikit_learn",
    "labels sensitivity_at_0.9": "metrics/test_rank_of_labels.py:test_the_sensitivity_is_that_of_torchmetrics",
    "labels f1": OF_LABELS,
    "labels kappa": "metrics/test_agreement.py:test_they_are_those_of_scikit_learn",
    "labels brier": OF_LABELS,
    "labels ece": "metrics/test_calibration.py:test_it_is_that_of_torchmetrics",
    "mask dice": "tasks/test_mask.py:test_dice_and_iou_are_monais_with_two_empty_masks_alike",
    "mask iou": "tasks/test_mask.py:test_dice_and_iou_are_monais_with_two_empty_masks_alike",
    "mask iou_marked": "tasks/test_mask.py:test_what_is_there_and_what_is_not_are_measured_apart",
    "mask left_empty": "tasks/test_mask.py:test_what_is_there_and_what_is_not_are_measured_apart",
    "mask nsd": "tasks/test_mask.py:test_distances_are_monais_and_empty_masks_are_far",
    "mask hd95": "tasks/test_mask.py:test_distances_are_monais_and_empty_masks_are_far",
    "mask volume_similarity": "tasks/test_mask.py:test_volumes_are_compared_as_their_formula_says",
    "mask volume_error_ml": f"{OF_OBJECTS}:test_one_pixel_and_anisotropic_volumes_have_an_error_in_ml",
    "mask dice_second": f"{OF_OBJECTS}:test_a_second_reader_is_compared_with_the_first",
    "mask dice_beyond_second": f"{OF_OBJECTS}:test_a_second_reader_is_compared_with_the_first",
    "mask object_f1": f"{OF_OBJECTS}:test_panoptic_quality_is_that_of_torchmetrics",
    "mask pq": f"{OF_OBJECTS}:test_panoptic_quality_is_that_of_torchmetrics",
    "mask sq": f"{OF_OBJECTS}:test_panoptic_quality_is_that_of_torchmetrics",
    "mask aji": f"{OF_OBJECTS}:test_aji_and_hits_are_those_of_loops_over_pairs",
    "mask hit_rate": f"{OF_OBJECTS}:test_aji_and_hits_are_those_of_loops_over_pairs",
    "mask false_alarms": f"{OF_OBJECTS}:test_aji_and_hits_are_those_of_loops_over_pairs",
    "mask froc": f"{OF_OBJECTS}:test_the_froc_score_is_monais",
    "points closeness": "tasks/test_points.py:test_closeness_by_hand",
    "points hit_rate": "tasks/test_points.py:test_closeness_by_hand",
    "points nearest_px": "tasks/test_points.py:test_closeness_by_hand",
    "measure mae": OF_LENGTHS,
    "measure mre": OF_LENGTHS,
    "measure success": OF_LENGTHS,
    "order tau": "tasks/test_order_and_change.py:test_an_order_earns_kendalls_tau",
    "order exact": "tasks/test_order_and_change.py:test_an_order_earns_kendalls_tau",
    "change changes_right": "tasks/test_order_and_change.py:test_a_part_of_a_change_earns_its_share",
    "change exact": "tasks/test_order_and_change.py:test_a_part_of_a_change_earns_its_share",
    "stepwise score": "tasks/test_steps.py:test_a_step_less_costs_its_share_of_the_half",
    "stepwise right": "tasks/test_steps.py:test_a_step_less_costs_its_share_of_the_half",
    "stepwise process": "tasks/test_steps.py:test_a_step_less_costs_its_share_of_the_half",
}
"""Measure -> the test that compares it. One with a suffix, such as a section, is the same function."""
SHARES = {
    f"{task} unreadable"
    for task in ("count", "boxes", "indexed_boxes", "points", "measure", "order", "change", "stepwise")
}
"""How many answers cannot be read, which has no reference but the readers' own tests."""


def test_every_measure_is_compared_with_a_reference() -> None:
    for measure in join_measures(list_tasks()):
        name = f"{measure.group} {measure.metric}"
        if isinstance(measure.columns, OfJudge) or name in SHARES:
            continue
        found = next((each for each in sorted(COMPARED, key=len, reverse=True) if name.startswith(each)), None)
        assert found, f"{name}: compare it with a reference, and name the test here"
        file, _, test = COMPARED[found].partition(":")
        assert re.search(rf"^def {test}\(", (TESTS / file).read_text(), re.MULTILINE), COMPARED[found]


def measure(kind: str, metric: str, answers: Sequence[Any], truths: Sequence[Any]) -> float:
    (own,) = (each for each in find_task(kind).MEASURES if each.metric == metric)
    columns: Any = own.columns
    return value(np.array([columns(*each) for each in zip(answers, truths, strict=True)]), own.statistic)


# --- words ------------------------------------------------------------------------------------------------

LUNG = ("left", "right", "upper", "lobe", "lower", "lung", "apex", "effusion")


def draw_texts(seed: int) -> tuple[list[str], list[str]]:
    """Answers and references of 0 to 6 words, with repeated words; some are equal."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(LUNG, rng.integers(0, 7))) for _ in range(80)]
    return [*texts[:40], *texts[:5]], [*texts[40:], *texts[:5]]


CASES = {
    "drawn": draw_texts(0),
    "empty answers": (["", ""], ["left lung", "lung lung"]),
    "equal": (["left lung"] * 3, ["left lung"] * 3),
    "nothing in common": (["left"], ["right lobe"]),
    "articles, case and full stops": (["The left lung."], ["Left lung"]),
}


@pytest.mark.parametrize("name", CASES)
def test_words_of_short_answers(name: str) -> None:
    """F1 and the strict score are those of SQuAD, in torchmetrics."""
    answers, references = CASES[name]
    truths = [open.Truth(reference) for reference in references]
    asked = range(len(answers))
    expected = squad(
        [{"prediction_text": answer, "id": str(n)} for n, answer in zip(asked, answers, strict=True)],
        [{"answers": {"answer_start": [0], "text": [r]}, "id": str(n)} for n, r in zip(asked, references, strict=True)],
    )
    assert measure("open", "f1_open", answers, truths) == pytest.approx(float(expected["f1"]) / 100, abs=1e-6)
    assert measure("open", "accuracy_open", answers, truths) == pytest.approx(
        float(expected["exact_match"]) / 100, abs=1e-6
    )
    if name not in ("empty answers", "articles, case and full stops"):
        kept = [n for n in asked if references[n]]
        recall = [_rouge(answers[n], references[n])["rouge1_recall"] for n in kept]
        found = measure("open", "recall_open", [answers[n] for n in kept], [truths[n] for n in kept])
        assert found == pytest.approx(np.mean(recall), abs=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("articles")])
def test_words_of_reports(name: str) -> None:
    """ROUGE-1 of torchmetrics; two empty texts, of which it says 0, are equal."""
    answers, references = CASES[name]
    truths = [report.Truth(reference) for reference in references]
    expected = [_rouge(*each) for each in zip(answers, references, strict=True)]
    both = [not answer and not reference for answer, reference in zip(answers, references, strict=True)]
    for metric, theirs in (("token_f1", "rouge1_fmeasure"), ("token_recall", "rouge1_recall")):
        scores = [float(each[theirs]) for each in expected]
        for n, reference in enumerate(references):
            if both[n] or (metric == "token_recall" and not reference):
                scores[n] = 1.0  # nothing of the reference is missing
        assert measure("report", metric, answers, truths) == pytest.approx(np.mean(scores), abs=1e-6)


def _rouge(answer: str, reference: str) -> dict[str, Any]:
    found: dict[str, Any] = rouge_score(answer, reference, rouge_keys="rouge1")
    return found


# --- classes and counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [("left", "right", "both"), ("left",)])
def test_accuracy(sides: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    true, told = rng.choice(sides, 50).tolist(), rng.choice(["left", "right", "both"], 50).tolist()
    truths = [choice.Truth(side, ("left", "right", "both")) for side in true]
    assert measure("choice", "accuracy", told, truths) == pytest.approx(metrics.accuracy_score(true, told), abs=1e-6)


@pytest.mark.parametrize("spread", [1, 2, 9])
def test_counts(spread: int) -> None:
    rng = np.random.default_rng(spread)
    true, told = rng.integers(0, spread, (2, 60)).tolist()
    answers, truths = [str(n) for n in told], [count.Truth(count=n) for n in true]
    mae = metrics.mean_absolute_error(true, told)
    assert measure("count", "mae", answers, truths) == pytest.approx(mae, abs=1e-6)
    assert measure("count", "exact", answers, truths) == pytest.approx(metrics.accuracy_score(true, told), abs=1e-6)


def test_quantities() -> None:
    rng = np.random.default_rng(0)
    true, told = rng.normal(50, 9, (2, 60)).tolist()
    truths = [quantity.Truth(number=n, label="age", unit="years") for n in true]
    of = {"mae": metrics.mean_absolute_error(true, told), "rmse": metrics.root_mean_squared_error(true, told),
          "correlation": np.corrcoef(true, told)[0, 1]}  # fmt: skip
    for metric, expected in of.items():
        (own,) = (each for each in quantity.MEASURES if each.metric == metric)
        found: Any = [own.columns(*each) for each in zip(told, truths, strict=True)]
        columns = np.array([each[""] for each in found])
        assert value(columns, own.statistic) == pytest.approx(expected, abs=1e-6), metric


@pytest.mark.parametrize("present", [3, 1])
def test_labels(present: int) -> None:
    """present: the number of classes that occur."""
    rng = np.random.default_rng(present)
    names, scores = ("a", "b", "c"), rng.dirichlet(np.ones(3), 60)
    true = rng.integers(0, present, 60)
    truths = [labels.Truth(classes=names, labels=tuple(n == own for n in range(3))) for own in true.tolist()]
    expected = metrics.accuracy_score(true, scores.argmax(axis=1))
    assert measure("labels", "accuracy", scores.tolist(), truths) == pytest.approx(expected, abs=1e-6)
    many = rng.random((60, 3)) < present / 4
    truths = [labels.Truth(classes=names, labels=tuple(of.tolist()), exclusive=False) for of in many]
    expected = 1 - metrics.hamming_loss(many, scores > 0.5)
    assert measure("labels", "accuracy", scores.tolist(), truths) == pytest.approx(expected, abs=1e-6)


# --- boxes and retrieval ----------------------------------------------------------------------------------


def test_boxes() -> None:
    """IoU of torchvision, matched by scipy; boxes without a partner count as 0, on either side."""
    rng = np.random.default_rng(0)
    answers, truths, overlaps, hits = [], [], [], []
    for number in range(60):
        corners = [rng.integers(0, 60, (n, 2)) for n in (rng.integers(1, 5), rng.integers(1, 5))]
        true, told = (np.concatenate([low, low + rng.integers(1, 60, low.shape)], axis=1) for low in corners)
        told = true.copy() if number % 10 == 0 else told
        iou = box_iou(torch.tensor(told).double(), torch.tensor(true).double()).numpy()
        pairs = iou[linear_sum_assignment(-iou)]
        overlaps.append(pairs.sum() / max(iou.shape))
        hits.append((pairs >= 0.5).sum() / max(iou.shape))
        answers.append(_brackets.write([(x1, y1, x2, y2) for x1, y1, x2, y2 in told.astype(float).tolist()]))
        truths.append(boxes.Truth(boxes=tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in true.astype(float).tolist())))
    assert measure("boxes", "mean_iou", answers, truths) == pytest.approx(np.mean(overlaps), abs=1e-6)
    assert measure("boxes", "hit_rate", answers, truths) == pytest.approx(np.mean(hits), abs=1e-6)
    assert np.mean(overlaps) > 0.1


def test_boxes_by_image() -> None:
    """As above, where a box on another image overlaps with nothing; F1 of the images of sklearn."""
    rng = np.random.default_rng(0)
    answers, truths, overlaps, hits, shares = [], [], [], [], []
    for _ in range(60):
        lows = [rng.integers(0, 30, (n, 2)) for n in (rng.integers(1, 5), rng.integers(1, 5))]
        true, told = (np.concatenate([low, low + rng.integers(20, 60, low.shape)], axis=1) for low in lows)
        own, said = (np.sort(rng.integers(1, 4, len(each))) for each in (true, told))
        iou = box_iou(torch.tensor(told).double(), torch.tensor(true).double()).numpy() * (said[:, None] == own)
        pairs = iou[linear_sum_assignment(-iou)]
        overlaps.append(pairs.sum() / max(iou.shape))
        hits.append((pairs >= 0.5).sum() / max(iou.shape))
        shares.append(f1_score(*(np.isin([1, 2, 3], each) for each in (own, said))))
        told_P = [(n, (a, b, c, d)) for n, (a, b, c, d) in zip(said.tolist(), told.astype(float).tolist(), strict=True)]
        answers.append(_indexed.write(told_P, "image", _brackets.write))
        true_B = tuple((a, b, c, d) for a, b, c, d in true.astype(float).tolist())
        truths.append(indexed_boxes.Truth(boxes=true_B, numbers=tuple(own.tolist())))
    for name, right in {"mean_iou": overlaps, "hit_rate": hits, "numbers": shares}.items():
        assert measure("indexed_boxes", name, answers, truths) == pytest.approx(np.mean(right), abs=1e-6), name
        assert np.mean(right) > 0.1


@pytest.mark.parametrize("k", [1, 5, 10])
def test_the_share_of_hits_among_the_first_is_that_of_torchmetrics(k: int) -> None:
    rng = np.random.default_rng(k)
    similar_QC, targets_QC = rng.normal(size=(40, 20)), rng.random((40, 20)) < 0.1
    targets_QC[:, 0] |= ~targets_QC.any(axis=1)
    theirs = [
        retrieval_hit_rate(torch.tensor(own), torch.tensor(right), top_k=k)
        for own, right in zip(similar_QC, targets_QC, strict=True)
    ]
    assert top(ranks(similar_QC, targets_QC), k) == pytest.approx(np.mean(theirs), abs=1e-6)
    if k == 1:
        one_QC = np.eye(20, dtype=bool)[rng.integers(0, 20, 40)]
        expected = metrics.top_k_accuracy_score(one_QC.argmax(axis=1), similar_QC, k=1, labels=range(20))
        assert top(ranks(similar_QC, one_QC), 1) == pytest.approx(expected, abs=1e-6)
        assert chance(one_QC).tolist() == [0.05] * 40
