"""95 % intervals by resampling whole clusters (cluster bootstrap).

Questions about one image, or images of one patient, are not independent: an interval that draws single questions is too
narrow. So clusters are drawn with replacement, as many as there are, and a metric is a function of sums over what was
drawn, or of the items and how often each was drawn. `interval` turns the draws into bounds that hold for few clusters
too; benchmarks/coverage.py measures how often.

Axes: N items, K summed columns of an item, C clusters, R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from medvlm.core.measure import OfItems, Statistic

_DRAWS_AT_ONCE = 1 << 21  # 16 MiB of draws
_NOTHING = 1e-18
"""A variance that rounding leaves where all draws are equal."""


def value(items_NK: np.ndarray, statistic: Statistic) -> float:
    """The metric over all items, each once; NaN where they do not define it."""
    if isinstance(statistic, OfItems):
        return float(statistic.metric(items_NK, np.ones((1, len(items_NK))))[0])
    return float(statistic(items_NK.sum(axis=0, keepdims=True))[0])


def resample(
    items_NK: np.ndarray,
    clusters: Sequence[Hashable],
    statistic: Statistic,
    resamples: int = 1000,
    seed: int = 0,
    among: Sequence[Hashable] | None = None,
) -> np.ndarray:
    """The metric on each of `resamples` draws of clusters, float64 [R].

    clusters: the cluster of each item. Two calls with equal clusters, resamples and seed draw the same, so the
    difference of their results is the paired difference. A metric of sums must be defined for any one cluster alone;
    one of items may be NaN where the draw does not define it. among: the clusters that are drawn from, where these
    items are a part of those that are drawn together; by default their own.
    """
    number = _number(clusters if among is None else among)
    of_item, num_clusters = [number[cluster] for cluster in clusters], len(number)
    assert len(items_NK) == len(of_item) > 0, (items_NK.shape, len(of_item))
    items_NK = np.asarray(items_NK, dtype=np.float64)
    sums_CK = np.zeros((num_clusters, items_NK.shape[1]))
    np.add.at(sums_CK, of_item, items_NK)
    rng = np.random.default_rng(seed)
    widest = len(items_NK) if isinstance(statistic, OfItems) else num_clusters
    block = max(1, _DRAWS_AT_ONCE // widest)
    metric = []
    for start in range(0, resamples, block):
        times_RC = _draw(rng, min(block, resamples - start), num_clusters)
        if isinstance(statistic, OfItems):
            metric.append(statistic.metric(items_NK, times_RC[:, of_item]))
        else:
            # einsum and not @: a BLAS sums in an order that depends on its threads, and saved answers must score
            # bit-equal.
            metric.append(statistic(np.einsum("rc,ck->rk", times_RC, sums_CK)))
    return np.concatenate(metric)


def interval(
    metric_R: np.ndarray,
    estimate: float,
    num_clusters: int,
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
    seeds: Sequence[Sequence[float]] = (),
) -> tuple[float, float]:
    """The confidence interval of a metric from its draws; (NaN, NaN) where the data say nothing about its spread: with
    one cluster, and where all draws of a metric without bounds are equal.

    estimate: the metric of all items. num_clusters: how many were drawn from. bounds: the least and the largest value
    that the metric can have, None where it has none.

    With bounds it is the interval of Wilson (1927) for a share, with the t quantile of C - 1 degrees of freedom and the
    number of independent items whose share varies as much as the draws do. Where all clusters agree, that is the number
    of clusters: 30 patients without an error do not prove that there are none. Without bounds it is the percentile
    interval, expanded for few clusters (Hesterberg 2015, https://doi.org/10.1080/00031305.2015.1089789, section 4.3).
    The plain percentile interval of 30 patients and a share of 0.95 covers the truth in 80 % of cases.

    seeds: for each model in the metric, its values on all items after training with each seed; metric_R is then of
    their means. The variance of these means is added to that of the draws, and the degrees of freedom are those of the
    sum (Welch 1947, Satterthwaite 1946). What a seed changes on single clusters is in both, so the interval is
    somewhat wider than needed. Without bounds, it is then estimate +- t times the standard error.
    """
    from scipy.stats import norm, t  # half a second

    defined_D = metric_R[~np.isnan(metric_R)]
    if num_clusters < 2 or not len(defined_D) or np.isnan(estimate):
        return np.nan, np.nan
    of_seeds = [(float(np.var(each, ddof=1)) / len(each), len(each) - 1) for each in seeds if len(each) > 1]
    of_clusters = float(defined_D.var()) * num_clusters / (num_clusters - 1), num_clusters - 1
    variance, freedom = _add_variances([of_clusters, *of_seeds])
    quantile = float(t.ppf((1 + confidence) / 2, freedom))
    if bounds is not None:
        low, high = bounds
        share = (estimate - low) / (high - low)
        middle, half = _wilson(share, variance / (high - low) ** 2, quantile, num_clusters)
        return low + (high - low) * max(0.0, middle - half), low + (high - low) * min(1.0, middle + half)
    if variance <= _NOTHING * estimate**2:
        return np.nan, np.nan
    if of_seeds:
        return estimate - quantile * variance**0.5, estimate + quantile * variance**0.5
    below = float(norm.cdf(-quantile * (num_clusters / (num_clusters - 1)) ** 0.5))
    lower, upper = np.quantile(defined_D, [below, 1 - below])
    return float(lower), float(upper)


def _add_variances(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """The sum of independent variances, and its degrees of freedom. parts: (variance, degrees of freedom)."""
    total = sum(variance for variance, _ in parts)
    if total <= 0.0 or len(parts) == 1:
        return total, parts[0][1]
    return total, total**2 / sum(variance**2 / freedom for variance, freedom in parts)


def find_reach(deviation_R: np.ndarray, num_clusters: int, confidence: float = 0.95) -> float:
    """How far the truth is at most from a metric whose draws deviate so much, in (1 + confidence) / 2 of cases.
    Expanded for few clusters, as in `interval`."""
    from scipy.stats import norm, t

    level = (1 + confidence) / 2
    few = float(t.ppf(level, num_clusters - 1) / norm.ppf(level)) * (num_clusters / (num_clusters - 1)) ** 0.5
    return few * float(np.quantile(deviation_R[~np.isnan(deviation_R)], level))


def _wilson(share: float, variance: float, quantile: float, num_clusters: int) -> tuple[float, float]:
    """(middle, half width) of Wilson's interval for a share with this variance."""
    spread = share * (1 - share)
    trials = spread / variance if spread > 0 and variance > _NOTHING else num_clusters
    scale = 1 + quantile**2 / trials
    half = quantile * (spread / trials + quantile**2 / (4 * trials**2)) ** 0.5
    return (share + quantile**2 / (2 * trials)) / scale, half / scale


def _draw(rng: np.random.Generator, rows: int, num_clusters: int) -> np.ndarray:
    """How often each cluster is drawn, float64 [rows, C]."""
    drawn_RC = rng.integers(0, num_clusters, size=(rows, num_clusters))
    drawn_RC += num_clusters * np.arange(rows)[:, None]
    return np.bincount(drawn_RC.ravel(), minlength=rows * num_clusters).reshape(rows, num_clusters).astype(np.float64)


def _number(clusters: Sequence[Hashable]) -> dict[Hashable, int]:
    """Cluster -> its number, in the order of their first items."""
    return {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
