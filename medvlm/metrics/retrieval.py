"""How well similar candidates are found: recall at k, precision at k and average precision, and their chance levels.

Axes: Q queries, C candidates.
"""

from __future__ import annotations

from math import comb

import numpy as np


def ranks(similarity_QC: np.ndarray, is_target_QC: np.ndarray) -> np.ndarray:
    """How many wrong candidates are at least as similar as the best right one; 0 is a hit. int64 [Q].

    Ties count against the model: equal similarities, as of a collapsed tower, find nothing.
    is_target_QC: bool; every query has at least one right candidate.
    """
    assert similarity_QC.shape == is_target_QC.shape and is_target_QC.any(axis=1).all(), similarity_QC.shape
    best_Q1 = np.where(is_target_QC, similarity_QC, -np.inf).max(axis=1, keepdims=True)
    # `not less` and not `greater or equal`: a NaN anywhere is a miss.
    return (~(similarity_QC < best_Q1) & ~is_target_QC).sum(axis=1)


def top(ranks_Q: np.ndarray, k: int) -> float:
    """The share of queries with a right candidate among the first k."""
    return float((ranks_Q < k).mean())


def chance(is_target_QC: np.ndarray) -> np.ndarray:
    """Probability that a random candidate is right, by query: what top-1 is worth without looking. float64 [Q]."""
    return is_target_QC.mean(axis=1)


def chance_at(k: int, num_right: int, num_candidates: int) -> float:
    """The probability that at least one right candidate is among the first k of a random order."""
    assert 0 < k <= num_candidates and 0 <= num_right <= num_candidates, (k, num_right, num_candidates)
    return 1.0 - comb(num_candidates - num_right, k) / comb(num_candidates, k)


def sort_hits(similarity_C: np.ndarray, is_right_C: np.ndarray) -> np.ndarray:
    """Whether the candidates are right, from the most similar one on. bool [C]. Of equal similarities, the wrong ones
    come first; NaN is last."""
    return is_right_C[np.lexsort((is_right_C, -similarity_C))]


def average_precision(is_right_C: np.ndarray) -> float:
    """The mean, over the right candidates, of the precision down to each of them. is_right_C: sorted, as sort_hits()
    returns it; at least one is right. Its mean over queries is the MAP (Manning et al. 2008, Introduction to
    Information Retrieval, section 8.4)."""
    places = np.flatnonzero(is_right_C) + 1
    return float((np.arange(1, len(places) + 1) / places).mean())


def chance_of_average_precision(num_right: int, num_candidates: int) -> float:
    """The expected average precision of a random order.

    The i-th candidate is right with probability R / C, and a given earlier one too with R (R - 1) / (C (C - 1)); the
    sum over i has a closed form in the harmonic number H of C."""
    assert 0 < num_right <= num_candidates, (num_right, num_candidates)
    if num_candidates == 1:
        return 1.0
    harmonic = float((1 / np.arange(1, num_candidates + 1)).sum())
    others = (num_right - 1) / (num_candidates - 1)
    return (harmonic + (num_candidates - harmonic) * others) / num_candidates
