"""Statistics of the ranking of items by score.

Axes: N items, R draws of them, G groups of items with equal scores, from the lowest.
"""

from __future__ import annotations

import numpy as np


def auroc(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """The probability that a positive item has a higher score than a negative one; ties count one half. float64 [R].

    items_NK: columns (score, 1 for a positive and 0 for a negative). times_RN: how often each draw holds an item.
    NaN where a draw lacks positives or negatives. As a measure: `statistic=OfItems(auroc)`.
    Source: Hanley and McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747.
    """
    score_N, positive_N = items_NK[:, 0], items_NK[:, 1]
    assert np.isin(positive_N, (0, 1)).all() and not np.isnan(score_N).any(), items_NK
    order_N = np.argsort(score_N, kind="stable")
    sorted_N = score_N[order_N]
    starts_G = np.flatnonzero(np.append(True, sorted_N[1:] != sorted_N[:-1]))
    times_RN, positive_N = times_RN[:, order_N], positive_N[order_N]
    positives_RG = np.add.reduceat(times_RN * positive_N, starts_G, axis=1)
    negatives_RG = np.add.reduceat(times_RN * (1 - positive_N), starts_G, axis=1)
    below_RG = np.cumsum(negatives_RG, axis=1) - negatives_RG
    # Counts of pairs: whole numbers and halves, exact in float64, whatever the order of the sum.
    ordered_R = (positives_RG * (below_RG + negatives_RG / 2)).sum(axis=1)
    pairs_R = positives_RG.sum(axis=1) * negatives_RG.sum(axis=1)
    return np.divide(ordered_R, pairs_R, out=np.full(len(times_RN), np.nan), where=pairs_R > 0)
