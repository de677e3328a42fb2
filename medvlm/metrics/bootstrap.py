"""95 % intervals by resampling whole clusters (cluster bootstrap).

Questions about one image, or images of one patient, are not independent: an interval that draws single
questions is too narrow. So clusters are drawn with replacement, as many as there are, and a metric is a
function of sums over what was drawn, or of the items and how often each was drawn. The interval is the plain
percentile one (Efron 1979). It has zero width if all clusters agree (every answer right), which understates the
uncertainty for few clusters.

Axes: N items, K summed columns of an item, C clusters, R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from medvlm.core.measure import OfItems, Statistic

_DRAWS_AT_ONCE = 1 << 21  # 16 MiB of draws


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


def interval(metric_R: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the draws that define the metric; NaN where none does."""
    defined_D = metric_R[~np.isnan(metric_R)]
    low, high = np.quantile(defined_D, [0.025, 0.975]) if len(defined_D) else (np.nan, np.nan)
    return float(low), float(high)


def _draw(rng: np.random.Generator, rows: int, num_clusters: int) -> np.ndarray:
    """How often each cluster is drawn, float64 [rows, C]."""
    drawn_RC = rng.integers(0, num_clusters, size=(rows, num_clusters))
    drawn_RC += num_clusters * np.arange(rows)[:, None]
    return np.bincount(drawn_RC.ravel(), minlength=rows * num_clusters).reshape(rows, num_clusters).astype(np.float64)


def _number(clusters: Sequence[Hashable]) -> dict[Hashable, int]:
    """Cluster -> its number, in the order of their first items."""
    return {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
