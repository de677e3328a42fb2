"""Findings, changes and sections of reports as measures, and to which reports they apply."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multilabel_f1_score

from medvlm.core.errors import DataError
from medvlm.core.measure import Measure
from medvlm.core.sample import Medium, truth_from_json
from medvlm.core.tasks import find_task, read_truth
from medvlm.metrics.bootstrap import value
from medvlm.tasks.chest.compare import count_findings, count_findings_by_class, count_findings_with_side
from medvlm.tasks.chest.findings import CLASSES, read_findings
from medvlm.tasks.chest.temporal import find_changes, temporal_f1
from medvlm.tasks.report import MEASURES, Config, Truth, best_constant, check

CHEST = "english_chest_radiograph"
PAIRS = [
    ("Small left effusion.", "Small right effusion."),
    ("No effusion.", "Right effusion."),
    ("Cardiomegaly and edema.", "Cardiomegaly. Possible edema. No pneumothorax."),
    ("Lungs are clear. No effusion.", "The lungs are clear without effusion."),
    ("", "Right upper lobe consolidation."),
    ("Left nodule.", "No acute process."),
]


def find_measure(metric: str) -> Measure:
    return next(measure for measure in MEASURES if measure.metric == metric)


def judge(metric: str, pairs: list[tuple[str, str]]) -> float:
    measure = find_measure(metric)
    truths = [Truth(reference, CHEST) for _, reference in pairs]
    columns: Any = measure.columns
    about = [n for n, truth in enumerate(truths) if measure.is_about("report", truth)]
    return value(np.array([columns(pairs[n][0], truths[n]) for n in about]), measure.statistic)


def test_a_denied_finding_is_a_miss_and_its_side_counts_apart() -> None:
    # TP, FP, FN; `no effusion` is a normal report, so `no_finding` is claimed.
    assert count_findings("No effusion.", "Right effusion.") == (0, 1, 1)
    assert count_findings("Left effusion.", "Right effusion.") == (1, 0, 0)
    assert count_findings_with_side("Left effusion.", "Right effusion.") == (0, 1, 1)
    assert count_findings("", "") == (0, 0, 0)


def test_finding_f1_equals_torchmetrics_on_the_labels() -> None:
    def label(text: str) -> list[int]:
        read = read_findings(text)
        return [int(name in read and read[name].status != "absent") for name in CLASSES]

    found, expected = (torch.tensor([label(pair[i]) for pair in PAIRS]) for i in (0, 1))
    micro = multilabel_f1_score(found, expected, num_labels=len(CLASSES), average="micro").item()
    assert judge("finding_f1", PAIRS) == pytest.approx(micro, abs=1e-6)
    single = multilabel_f1_score(found, expected, num_labels=len(CLASSES), average="none").tolist()
    counts = [count_findings_by_class(*pair) for pair in PAIRS]
    for name, f1 in zip(CLASSES, single, strict=True):
        tp, fp, fn = (sum(each[name][k] for each in counts) for k in range(3))
        assert tp + fp + fn == 0 or 2 * tp / (2 * tp + fp + fn) == pytest.approx(f1, abs=1e-6)


def test_sections_are_compared_where_the_reference_has_them() -> None:
    pairs = [
        ("FINDINGS: Left effusion. IMPRESSION: Normal.", "FINDINGS: Left effusion. IMPRESSION: Left effusion."),
        ("Left effusion.", "Left effusion."),
        ("Left effusion.", "IMPRESSION: Left effusion."),
    ]
    assert judge("finding_f1_findings", pairs) == 1
    assert judge("finding_f1_impression", pairs) == 0
    assert judge("finding_f1", pairs[1:]) == 1
    assert judge("rouge_l_findings", pairs) == 1 and judge("rouge_l_impression", pairs) == 0


def test_only_reports_that_a_card_calls_so_have_findings() -> None:
    plain, chest = (
        read_truth("report", "No effusion."),
        read_truth(Config(kind="report", findings=CHEST), "No effusion."),
    )
    for metric in ("finding_f1", "finding_f1_side", "finding_f1_macro", "temporal_f1"):
        is_about = find_measure(metric).is_about
        assert not is_about("report", plain) and is_about("report", chest)
    assert plain is not None and chest is not None
    assert plain.to_json() == {"task": "report", "answer": "No effusion."}, "shards without findings are as before"
    assert truth_from_json(chest.to_json()) == chest != plain == truth_from_json(plain.to_json())


@pytest.mark.parametrize(
    "medium",
    [Medium("film", "0.png", (64, 64), modality="CT"), Medium("volume", "0.nii", (8, 64, 64), modality="X-ray")],
)
def test_findings_of_other_images_are_refused(medium: Medium) -> None:
    with pytest.raises(DataError, match="reads reports of radiographs only; remove `findings`"):
        check(Truth("No effusion.", CHEST), [medium])
    check(Truth("No effusion."), [medium])
    check(Truth("No effusion.", CHEST), [Medium("film", "0.png", (64, 64), modality="DX")])


def test_the_best_constant_is_chosen_by_findings_too() -> None:
    truths = [Truth(text, CHEST) for text in ["No effusion."] * 3 + ["Left effusion."] * 2 + ["Edema, left effusion."]]
    texts = {truth.answer for truth in truths}
    assert all(best_constant(truths, measure) in texts for measure in MEASURES)
    assert best_constant(truths, find_measure("finding_f1")) == "No effusion."
    assert best_constant(truths[2:], find_measure("finding_f1")) == "Left effusion."


def test_temporal_f1_is_that_of_the_sets_of_words() -> None:
    """Worked by hand from the formula of Libra, whose epsilon is left out: it changes nothing above 1e-9."""
    assert temporal_f1("Stable effusion.", "Stable, unchanged effusion.") == pytest.approx(2 / 3)
    assert temporal_f1("Clear.", "Normal.") == 1
    assert temporal_f1("Stable.", "Normal.") == temporal_f1("Normal.", "Stable.") == 0
    assert temporal_f1("NEW, well-improved; worse worse", "new improved worse") == 1
    assert find_changes("newly renewed instability") == frozenset()


def test_a_report_has_all_of_its_measures() -> None:
    names = [measure.metric for measure in find_task("report").MEASURES]
    assert len(names) == len(set(names)) and {"bleu_4_impression", "finding_f1_findings"} <= set(names)
