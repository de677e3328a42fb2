"""How far probabilities are from the shares that they promise.

Axes: K columns of an item, R draws of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BINS = 10
"""Bins of equal width: [0, 0.1], (0.1, 0.2], ... (0.9, 1]."""


def find_bin(probability: float) -> int:
    return int(np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probability))


def spread_gap(probability: float, is_there: float) -> tuple[float, ...]:
    """The columns of an item: in its bin how much the probability exceeds the truth (0 or 1), 0 in the others, and 1
    to count the item."""
    gaps = [0.0] * BINS
    gaps[find_bin(probability)] = probability - is_there
    return (*gaps, 1.0)


def calibration_error(totals_RK: np.ndarray) -> np.ndarray:
    """Expected calibration error from sums of `spread_gap`, float64 [R]: the distance between the mean probability and
    the share of positives in each bin, averaged over the items.

    Source: Naeini, Cooper and Hauskrecht 2015 (AAAI), for one class against the rest. It is never below 0, so chance
    alone makes it positive: about 0.05 for 100 items of a well calibrated model.
    """
    return np.abs(totals_RK[:, :-1]).sum(axis=1) / totals_RK[:, -1]


def measure_deviation(items_NK: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """How far the gaps of the bins in draws are from those of these items, summed up. The calibration errors of both
    differ by no more than that (triangle inequality)."""
    own_K = items_NK[:, :-1].sum(axis=0) / items_NK[:, -1].sum()
    return lambda totals_RK: np.abs(totals_RK[:, :-1] / totals_RK[:, -1:] - own_K).sum(axis=1)
