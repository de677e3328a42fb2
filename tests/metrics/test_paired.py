from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, chi2

from medvlm.metrics.paired import holm, mcnemar


def test_mcnemar_is_the_exact_test_with_one_question_a_patient() -> None:
    first = np.array([1] * 10 + [0] * 2 + [1] * 30)
    second = np.array([0] * 10 + [1] * 2 + [1] * 30)
    expected = 2 * binom.cdf(2, 12, 0.5)
    assert mcnemar(first, second, range(42)) == pytest.approx(expected, abs=1e-12)
    assert mcnemar(second, first, range(42)) == pytest.approx(expected, abs=1e-12)
    assert mcnemar(first, first, range(42)) == 1.0


def test_questions_of_one_patient_are_no_independent_evidence() -> None:
    """Ten patients of four questions, nine of them all right with the first model only: Durkalski's statistic is
    (sum of means) squared over the sum of squared means, 81 / 9."""
    first, second = np.repeat([1] * 9 + [0], 4), np.zeros(40)
    patients = [str(n) for n in np.repeat(np.arange(10), 4)]
    assert mcnemar(first, second, patients) == pytest.approx(chi2.sf(9, 1), abs=1e-12)
    assert mcnemar(first, second, patients) > 1000 * mcnemar(first, second, range(40))


def test_mcnemar_keeps_its_level_with_correlated_questions() -> None:
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(1000):
        sides = np.repeat(rng.integers(-1, 2, 60), 4)  # a patient favours one model in all four questions
        rejected += mcnemar(sides > 0, sides < 0, [str(n) for n in np.repeat(np.arange(60), 4)]) < 0.05
    assert 0.03 <= rejected / 1000 <= 0.07


def test_holm_equals_the_worked_example_of_the_paper() -> None:
    """Holm 1979, section 3: 0.01, 0.04, 0.03, 0.005 times 3, 1, 2, 4, made to rise with the order of p."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.6, 0.7]) == [1.0, 1.0]
