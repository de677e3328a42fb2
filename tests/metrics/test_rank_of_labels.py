"""Average precision, sensitivity at a specificity, and the choice of a threshold."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest

from medvlm.core.measure import OfItems
from medvlm.metrics.bootstrap import resample, value
from medvlm.metrics.rank import average_precision, choose_threshold, sensitivity_at

AT_90 = partial(sensitivity_at, 0.9)


def items(scores: Any, positive: Any) -> np.ndarray:
    return np.array([scores, positive], dtype=float).T


def of(metric: Any, scores: Any, positive: Any) -> float:
    return value(items(scores, positive), OfItems(metric))


def draw_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, with few, and with none; sometimes of one class."""
    rng = np.random.default_rng(seed)
    positive = (rng.random(rng.integers(1, 60)) < rng.choice([0.1, 0.5, 1.0])).astype(int)
    return np.round(rng.normal(positive), int(rng.choice([0, 1, 8]))), positive


def test_average_precision_by_hand() -> None:
    """Positives at ranks 1 and 3: (1/1 + 2/3) / 2. All tied: each has the precision of all."""
    assert of(average_precision, [0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0]) == pytest.approx((1 + 2 / 3) / 2)
    assert of(average_precision, [0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]) == 0.25
    assert of(average_precision, [0.1, 0.2], [1, 1]) == 1
    assert math.isnan(of(average_precision, [0.1, 0.2], [0, 0]))


def test_sensitivity_by_hand() -> None:
    """Of ten negatives one may be found. It is tied with a positive, which is found with it; two ties are too many."""
    negatives = [0.1] * 8 + [0.4, 0.6]
    assert of(AT_90, [*negatives, 0.9, 0.6, 0.5, 0.3], [0] * 10 + [1] * 4) == 3 / 4
    assert of(AT_90, [*negatives[:-1], 0.9, 0.9], [0] * 9 + [1, 1]) == 1
    assert of(AT_90, [0.5] * 12, [0] * 10 + [1] * 2) == 0, "a constant cannot leave anything out"
    assert of(AT_90, [0.1] * 8 + [0.7, 0.7, 0.7, 0.8], [0] * 10 + [1, 1]) == 1 / 2
    assert math.isnan(of(AT_90, [0.1, 0.2], [1, 1])) and math.isnan(of(AT_90, [0.1, 0.2], [0, 0]))


def test_the_threshold_by_hand() -> None:
    """F1 is 2/3 from 0.9 on, 1/2 from 0.8 on, 4/5 from 0.7 on. Of equal ones the highest is chosen."""
    assert choose_threshold(items([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0])) == 0.7
    assert choose_threshold(items([0.9, 0.8, 0.7], [1, 0, 0])) == 0.9
    assert choose_threshold(items([0.9, 0.5, 0.4, 0.3], [1, 0, 0, 1])) == 0.9, "2/3 from 0.9 and from 0.3 on"
    assert choose_threshold(items([0.3, 0.3], [1, 0])) == 0.3
    assert choose_threshold(items([0.3, 0.4], [1, 1])) is choose_threshold(items([0.3], [0])) is None


@pytest.mark.slow
def test_they_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    defined = 0
    for seed in range(90):
        scores, positive = draw_case(seed)
        if positive.any():
            expected = metrics.average_precision_score(positive, scores)
            assert of(average_precision, scores, positive) == pytest.approx(expected, abs=1e-9)
        if 0 < positive.sum() < len(positive):
            defined += 1
            false, true, _ = metrics.roc_curve(positive, scores, drop_intermediate=False)
            assert of(AT_90, scores, positive) == pytest.approx(true[1 - false >= 0.9 - 1e-9].max(), abs=1e-9)
            best = max(metrics.f1_score(positive, scores >= threshold) for threshold in np.unique(scores))
            chosen = choose_threshold(items(scores, positive))
            assert metrics.f1_score(positive, scores >= chosen) == pytest.approx(best, abs=1e-9)
    assert defined > 45


def test_the_sensitivity_is_that_of_torchmetrics() -> None:
    import torch
    from torchmetrics.functional.classification import binary_sensitivity_at_specificity

    for seed in range(40):
        rng = np.random.default_rng(seed)
        positive = np.array([0, 1, *rng.integers(0, 2, 40)])
        scores = np.round(rng.random(42) * 0.6 + 0.4 * positive, 1)
        expected, _ = binary_sensitivity_at_specificity(torch.tensor(scores), torch.tensor(positive), 0.9)
        assert of(AT_90, scores, positive) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("metric", [average_precision, AT_90])
def test_a_draw_equals_the_metric_of_the_repeated_items(metric: Any) -> None:
    scores, positive = draw_case(4)
    rows, drawn = items(scores, positive), []

    def note(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
        drawn.append(times_RN)
        return times_RN[:, 0]

    resample(rows, range(len(rows)), OfItems(note), resamples=60, seed=5)
    metric_R = resample(rows, range(len(rows)), OfItems(metric), resamples=60, seed=5)
    for times_N, found in zip(np.concatenate(drawn).astype(int), metric_R, strict=True):
        repeated = np.repeat(rows, times_N, axis=0)
        assert found == pytest.approx(value(repeated, OfItems(metric)), nan_ok=True)
