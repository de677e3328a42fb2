"""Tests of two models on the same questions, and the correction for several tests.

Axes: N questions.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def mcnemar(first_N: np.ndarray, second_N: np.ndarray, clusters: Sequence[Hashable]) -> float:
    """The two-sided p-value of two models being right equally often. 1.0 if they never differ.

    first_N, second_N: whether they are right. clusters: the patient of each question. With one question a patient it is
    the exact test of McNemar (1947); with several, Durkalski's chi-square for clustered pairs, in which each patient
    counts with the mean of its differences.
    Source: Durkalski et al. 2003, https://doi.org/10.1002/sim.1438, equation 2.
    """
    from scipy.stats import binomtest, chi2  # half a second

    difference_N = np.asarray(first_N, float) - np.asarray(second_N, float)
    patients, number_N = np.unique([str(each) for each in clusters], return_inverse=True)
    if len(patients) == len(difference_N):
        wins, losses = int((difference_N > 0).sum()), int((difference_N < 0).sum())
        return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    mean_C = np.bincount(number_N, difference_N) / np.bincount(number_N)
    spread = float((mean_C**2).sum())
    return float(chi2.sf(float(mean_C.sum()) ** 2 / spread, 1)) if spread else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order: each may be compared with 0.05 although several were tested.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = largest
    return adjusted
