from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from medvlm.core.measure import OfItems
from medvlm.metrics.agreement import kappa, quadratic_kappa
from medvlm.metrics.bootstrap import value


def of(metric: Any, true: Any, told: Any) -> float:
    return value(np.array([true, told], dtype=float).T, OfItems(metric))


def test_kappa_by_hand() -> None:
    """Cohen's kind of example: 45 of 60 agree; by chance (35 * 40 + 25 * 20) / 60 would."""
    true, told = [0] * 35 + [1] * 25, [0] * 30 + [1] * 5 + [0] * 10 + [1] * 15
    by_chance = (35 * 40 + 25 * 20) / 60**2
    assert of(kappa, true, told) == pytest.approx((45 / 60 - by_chance) / (1 - by_chance))
    assert of(kappa, [0, 1, 2], [0, 1, 2]) == 1 and of(kappa, [0, 1, 0, 1], [1, 0, 1, 0]) == -1
    assert of(kappa, [0, 1, 2, 0], [1, 1, 1, 1]) == pytest.approx(0), "a constant knows nothing"
    assert math.isnan(of(kappa, [1, 1], [1, 1]))


def test_an_answer_that_names_no_class_is_wrong() -> None:
    """Two of four agree; by chance (2 * 1 + 2 * 1) / 16 would."""
    assert of(kappa, [0, 1, 0, 1], [0, 1, -1, -1]) == pytest.approx((1 / 2 - 1 / 4) / (1 - 1 / 4))


def test_a_mistake_of_two_grades_weighs_four_times_that_of_one() -> None:
    near, far = of(quadratic_kappa, [0, 1, 2, 3, 4], [1, 1, 2, 3, 4]), of(quadratic_kappa, [0, 1, 2, 3], [0, 1, 2, 1])
    assert near == pytest.approx(1 - 5 * 1 / sum((t - a) ** 2 for t in range(5) for a in (1, 1, 2, 3, 4)))
    assert far == pytest.approx(1 - 4 * 4 / sum((t - a) ** 2 for t in range(4) for a in (0, 1, 2, 1)))


def test_they_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(100):
        rng = np.random.default_rng(seed)
        n, classes = int(rng.integers(1, 40)), int(rng.integers(1, 6))
        true, told = rng.integers(0, classes, n), rng.integers(0, classes, n)
        with np.errstate(invalid="ignore"):
            plain = metrics.cohen_kappa_score(true, told, labels=range(classes))
            squared = metrics.cohen_kappa_score(true, told, labels=range(classes), weights="quadratic")
        assert of(kappa, true, told) == pytest.approx(plain, abs=1e-9, nan_ok=True)
        assert of(quadratic_kappa, true, told) == pytest.approx(squared, abs=1e-9, nan_ok=True)
