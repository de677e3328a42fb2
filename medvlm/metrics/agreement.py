"""Agreement of answered classes with true ones, beyond that of chance.

Axes: N items, R draws of them, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def kappa(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """Cohen's kappa, float64 [R]: 1 for full agreement, 0 for that of answers that know nothing of their question.

    items_NK: columns (number of the true class, number of the answered one); a number that no true class has, such as
    -1, is an answer that names no class. times_RN: how often each draw holds an item. NaN where a draw has one class
    only, and all answers are of it. Source: Cohen 1960, https://doi.org/10.1177/001316446002000104.
    """
    return _compare(items_NK, times_RN, lambda true, told: (true != told).astype(float))


def quadratic_kappa(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """Cohen's kappa for classes in an order: a mistake weighs as the square of its distance.

    Source: Cohen 1968, https://doi.org/10.1037/h0026256.
    """
    return _compare(items_NK, times_RN, lambda true, told: (true - told) ** 2)


def _compare(items_NK: np.ndarray, times_RN: np.ndarray, weigh: Callable[[Any, Any], np.ndarray]) -> np.ndarray:
    """1 - the weight of the mistakes, divided by the weight that independent answers of the same classes would have."""
    names, numbers = np.unique(items_NK, return_inverse=True)
    true_N, told_N = numbers.reshape(items_NK.shape).T
    size = len(names)
    pair_N = true_N * size + told_N
    counts_RCC = np.stack([np.bincount(pair_N, times_N, size**2) for times_N in times_RN]).reshape(-1, size, size)
    weights_CC = weigh(names[:, None], names[None])
    true_RC, told_RC = counts_RCC.sum(axis=2), counts_RCC.sum(axis=1)
    # einsum and not @: a BLAS sums in an order that depends on its threads.
    found_R = np.einsum("rct,ct->r", counts_RCC, weights_CC)
    expected_R = np.einsum("rc,rt,ct->r", true_RC, told_RC, weights_CC) / times_RN.sum(axis=1)
    return 1 - np.divide(found_R, expected_R, out=np.full(len(times_RN), np.nan), where=expected_R > 0)
