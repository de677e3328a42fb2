"""F1 over items that each add counts of true positives, false positives and false negatives."""

from __future__ import annotations

import numpy as np


def f1(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of the summed counts [R], where draw r holds item n times_RN[r, n] times; NaN where a
    draw has none of the three. As a measure: `statistic=OfItems(f1)`.

    items_NK: [N, 3] of TP, FP, FN.
    """
    # einsum and not @: a BLAS sums in an order that depends on its threads, and saved answers must score bit-equal.
    sums_RK = np.einsum("rn,nk->rk", times_RN, items_NK)
    twice_R = 2 * sums_RK[:, 0]
    all_R = twice_R + sums_RK[:, 1] + sums_RK[:, 2]
    return np.divide(twice_R, all_R, out=np.full(len(times_RN), np.nan), where=all_R > 0)
