"""Rank of the right candidate when candidates are sorted by similarity.

Axes: Q queries, C candidates.
"""

from __future__ import annotations

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
