"""How well predicted numbers follow true ones. Axes: N items, R draws of them."""

from __future__ import annotations

import numpy as np


def correlation(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """Pearson's r, float64 [R]. items_NK: columns (predicted, true). times_RN: how often each draw holds an item. 0
    where the predictions of a draw are all equal, as they tell nothing apart; NaN where the truths are."""
    total_R = times_RN.sum(axis=1)
    found_N, true_N = items_NK.T
    # einsum and not @: a BLAS sums in an order that depends on its threads.
    found_RN, true_RN = (of_N - (np.einsum("rn,n->r", times_RN, of_N) / total_R)[:, None] for of_N in (found_N, true_N))
    shared_R, found_R, spread_R = (
        np.einsum("rn,rn,rn->r", times_RN, a, b)
        for a, b in ((found_RN, true_RN), (found_RN, found_RN), (true_RN, true_RN))
    )
    # Rounding leaves a little of the spread of equal numbers.
    nothing_R = [np.einsum("rn,n->r", times_RN, of_N**2) * 1e-24 for of_N in (found_N, true_N)]
    varies_R = found_R > nothing_R[0]
    r_R = np.divide(shared_R, np.sqrt(found_R * spread_R), out=np.zeros(len(total_R)), where=varies_R & (spread_R > 0))
    return np.where(spread_R > nothing_R[1], np.clip(r_R, -1, 1), np.nan)
