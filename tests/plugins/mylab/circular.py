"""A metric: the median of errors on a circle, which is no function of sums and so needs the single items."""

from __future__ import annotations

import numpy as np

from medvlm.core.measure import OfItems


def difference(a: float, b: float) -> float:
    """Degrees between two directions of a line, 0 to 90: 179 and 1 are 2 degrees apart."""
    apart = abs(a - b) % 180
    return min(apart, 180 - apart)


def weighted_median(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """The median of the first column, with item n as often as a draw holds it; the lower one of an even number."""
    order = np.argsort(items_NK[:, 0], kind="stable")
    reached_RN = times_RN[:, order].cumsum(1) >= times_RN.sum(1, keepdims=True) / 2
    median_R: np.ndarray = items_NK[order, 0][reached_RN.argmax(1)]
    return median_R


MEDIAN = OfItems(weighted_median)
