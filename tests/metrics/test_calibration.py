from __future__ import annotations

import numpy as np
import pytest

from medvlm.metrics.bootstrap import value
from medvlm.metrics.calibration import BINS, calibration_error, find_bin, spread_gap


def of(probabilities: list[float], labels: list[int]) -> float:
    columns = [spread_gap(p, label) for p, label in zip(probabilities, labels, strict=True)]
    return value(np.array(columns), calibration_error)


def test_by_hand() -> None:
    """In the bin of 0.2 and 0.15 one of two is there: |0.175 - 0.5|; in that of 0.9 both are: 0.1."""
    assert of([0.2, 0.15, 0.9, 0.9], [0, 1, 1, 1]) == pytest.approx((2 * 0.325 + 2 * 0.1) / 4)
    assert of([1.0, 0.0], [1, 0]) == 0 and of([1.0, 0.0], [0, 1]) == 1
    assert of([0.25] * 4, [1, 0, 0, 0]) == 0


def test_a_probability_at_an_edge_is_in_the_lower_bin() -> None:
    assert [find_bin(p) for p in (0.0, 0.1, 0.100001, 0.3, 0.95, 1.0)] == [0, 0, 1, 2, 9, 9]


def test_it_is_that_of_the_curve_of_scikit_learn() -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    for seed in range(100):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 60))
        probabilities, labels = np.round(rng.random(n), int(rng.integers(1, 4))), rng.integers(0, 2, n)
        shares, means = calibration.calibration_curve(labels, probabilities, n_bins=BINS)
        counts = np.bincount([find_bin(p) for p in probabilities], minlength=BINS)
        expected = (counts[counts > 0] * abs(shares - means)).sum() / n
        assert of(probabilities.tolist(), labels.tolist()) == pytest.approx(expected, abs=1e-9)


def test_it_is_that_of_torchmetrics() -> None:
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    rng = np.random.default_rng(0)
    probabilities, labels = rng.random(500), rng.integers(0, 2, 500)
    expected = binary_calibration_error(torch.tensor(probabilities), torch.tensor(labels), n_bins=BINS)
    assert of(probabilities.tolist(), labels.tolist()) == pytest.approx(float(expected), abs=1e-6)
