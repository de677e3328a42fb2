"""Statistics of the ranking of items by score.

Each is a metric of `OfItems`: items_NK has the columns (score, 1 for a positive and 0 for a negative), times_RN says
how often each draw holds an item, and the result is float64 [R]. It is NaN where a draw does not define it.

Axes: N items, R draws of them, G groups of items with equal scores, from the lowest.
"""

from __future__ import annotations

import numpy as np


def auroc(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """The probability that a positive item has a higher score than a negative one; ties count one half.

    NaN where a draw lacks positives or negatives.
    Source: Hanley and McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747.
    """
    positives_RG, negatives_RG = _count_by_score(items_NK, times_RN)
    below_RG = np.cumsum(negatives_RG, axis=1) - negatives_RG
    # Counts of pairs: whole numbers and halves, exact in float64, whatever the order of the sum.
    ordered_R = (positives_RG * (below_RG + negatives_RG / 2)).sum(axis=1)
    pairs_R = positives_RG.sum(axis=1) * negatives_RG.sum(axis=1)
    return np.divide(ordered_R, pairs_R, out=np.full(len(times_RN), np.nan), where=pairs_R > 0)


def average_precision(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """The mean precision over the positive items: of each, the share of positives among the items that score at least
    as high. Items with equal scores are taken together, and nothing is interpolated, as in scikit-learn.

    NaN where a draw lacks positives; 1 where it lacks negatives.
    """
    positives_RG, negatives_RG = _count_by_score(items_NK, times_RN)
    found_RG, taken_RG = _sum_from_top(positives_RG), _sum_from_top(positives_RG + negatives_RG)
    precision_RG = np.divide(found_RG, taken_RG, out=np.zeros_like(found_RG), where=taken_RG > 0)
    positives_R = positives_RG.sum(axis=1)
    summed_R = (positives_RG * precision_RG).sum(axis=1)
    return np.divide(summed_R, positives_R, out=np.full(len(times_RN), np.nan), where=positives_R > 0)


def sensitivity_at(specificity: float, items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """The highest share of positives that a threshold finds which leaves out at least this share of the negatives.

    An item is found if its score is at least the threshold, so items with equal scores are found together or not at
    all, and nothing is interpolated. A threshold above all scores finds none, so the result is 0 if ties allow no
    other. NaN where a draw lacks positives or negatives.
    """
    positives_RG, negatives_RG = _count_by_score(items_NK, times_RN)
    negatives_R, positives_R = negatives_RG.sum(axis=1), positives_RG.sum(axis=1)
    left_out_RG = np.cumsum(negatives_RG, axis=1) - negatives_RG
    allowed_RG = left_out_RG >= specificity * negatives_R[:, None] - 1e-9
    found_R = np.where(allowed_RG, _sum_from_top(positives_RG), 0.0).max(axis=1)
    is_defined_R = (positives_R > 0) & (negatives_R > 0)
    return np.divide(found_R, positives_R, out=np.full(len(times_RN), np.nan), where=is_defined_R)


def choose_threshold(items_NK: np.ndarray) -> float | None:
    """The score from which on items are called positive so that their F1 is highest; of several such scores the
    highest. None without positives or without negatives."""
    positives_G, negatives_G = (counts_RG[0] for counts_RG in _count_by_score(items_NK, np.ones((1, len(items_NK)))))
    if not positives_G.sum() or not negatives_G.sum():
        return None
    found_G, taken_G = _sum_from_top(positives_G[None])[0], _sum_from_top((positives_G + negatives_G)[None])[0]
    f1_G = 2 * found_G / (taken_G + positives_G.sum())
    best = np.flatnonzero(f1_G == f1_G.max())[-1]
    return float(np.unique(items_NK[:, 0])[best])


def _count_by_score(items_NK: np.ndarray, times_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives of each score, [R, G]."""
    score_N, positive_N = items_NK[:, 0], items_NK[:, 1]
    assert np.isin(positive_N, (0, 1)).all() and not np.isnan(score_N).any(), items_NK
    order_N = np.argsort(score_N, kind="stable")
    sorted_N = score_N[order_N]
    starts_G = np.flatnonzero(np.append(True, sorted_N[1:] != sorted_N[:-1]))
    times_RN, positive_N = times_RN[:, order_N], positive_N[order_N]
    positives_RG = np.add.reduceat(times_RN * positive_N, starts_G, axis=1)
    return positives_RG, np.add.reduceat(times_RN * (1 - positive_N), starts_G, axis=1)


def _sum_from_top(counts_RG: np.ndarray) -> np.ndarray:
    """The counts of each score and of all higher ones."""
    return np.cumsum(counts_RG[:, ::-1], axis=1)[:, ::-1]
