"""How much of a performance is left where something has changed.

Axes: R draws of the items.
"""

from __future__ import annotations

import numpy as np


def relative_robustness(totals_R4: np.ndarray) -> np.ndarray:
    """RR = 1 - (P_iid - P_ood) / P_iid: 1 where nothing is lost, 0 where everything is; above 1 where it is better.

    totals_R4: sum of the scores and number of the items in distribution, then those out of distribution. NaN where one
    of them has no items, or nothing is right in distribution. Source: Kahl et al. 2024 (SURE-VQA,
    https://arxiv.org/abs/2411.19688).
    """
    score_in_R, count_in_R, score_out_R, count_out_R = totals_R4.T
    is_defined_R = (score_in_R > 0) & (count_in_R > 0) & (count_out_R > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_R = (score_out_R / count_out_R) / (score_in_R / count_in_R)
    return np.where(is_defined_R, ratio_R, np.nan)


def find_ratio_bounds(
    value_in: float,
    bounds_in: tuple[float, float],
    value_out: float,
    bounds_out: tuple[float, float],
    correlation: float,
) -> tuple[float, float]:
    """The interval of value_out / value_in from those of the two shares (MOVER-R); (NaN, NaN) where it has no end.

    The ends solve (out - t in)^2 = a^2 + t^2 b^2 - 2 r t a b, where a and b are the distances of the shares from the
    bounds that an end of the ratio depends on, and r the correlation of the shares. With symmetric intervals, this is
    Fieller's theorem. Source: Donner and Zou 2012, https://doi.org/10.1177/0962280210383082.
    """
    found = []
    for sign, a, b in (
        (-1, value_out - bounds_out[0], bounds_in[1] - value_in),
        (1, bounds_out[1] - value_out, value_in - bounds_in[0]),
    ):
        square = value_in**2 - b**2
        middle = value_in * value_out - correlation * a * b
        under_root = middle**2 - square * (value_out**2 - a**2)
        if square <= 0:  # the share in distribution may be almost 0: the ratio may have any value on this side
            found.append(0.0 if sign < 0 else np.nan)
        else:
            found.append((middle + sign * max(under_root, 0.0) ** 0.5) / square)
    low, high = found
    return (max(low, 0.0), high) if not np.isnan(high) else (np.nan, np.nan)
