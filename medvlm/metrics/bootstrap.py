"""95 % intervals by drawing whole clusters again.

Questions about one image, or images of one patient, are not independent: an interval that draws single
questions is too narrow. So clusters are drawn with replacement, as many as there are, and a metric is a
function of sums over what was drawn. The interval is the plain percentile one (Efron 1979): it has no width
where all clusters agree (every answer right), which understates what is not known for few clusters.

Axes: N items, K summed columns of an item, C clusters, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]
"""Sums [R, K] -> the metric [R]."""

_DRAWS_AT_ONCE = 1 << 21  # 16 MiB of draws


def mean(totals_RK: np.ndarray) -> np.ndarray:
    """Of columns (value, 1)."""
    return totals_RK[:, 0] / totals_RK[:, 1]


def value(items_NK: np.ndarray, statistic: Statistic) -> float:
    """The metric over all items, each once."""
    return float(statistic(items_NK.sum(axis=0, keepdims=True))[0])


def resampled(
    items_NK: np.ndarray, clusters: Sequence[Hashable], statistic: Statistic, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """The metric on each of `resamples` draws of clusters, float64 [R].

    clusters: the cluster of each item. Two calls with equal clusters, resamples and seed draw the same, so the
    difference of their results is the paired difference. A metric must be defined for any one cluster alone.
    """
    sums_CK = _sums(np.asarray(items_NK, dtype=np.float64), clusters)
    num_clusters = len(sums_CK)
    rng = np.random.default_rng(seed)
    block = max(1, _DRAWS_AT_ONCE // num_clusters)
    metric = [_draw(rng, min(block, resamples - start), sums_CK, statistic) for start in range(0, resamples, block)]
    return np.concatenate(metric)


def interval(metric_R: np.ndarray) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.quantile(metric_R, [0.025, 0.975])
    return float(low), float(high)


def _draw(rng: np.random.Generator, rows: int, sums_CK: np.ndarray, statistic: Statistic) -> np.ndarray:
    num_clusters = len(sums_CK)
    drawn_RC = rng.integers(0, num_clusters, size=(rows, num_clusters))
    drawn_RC += num_clusters * np.arange(rows)[:, None]
    times_RC = (
        np.bincount(drawn_RC.ravel(), minlength=rows * num_clusters).reshape(rows, num_clusters).astype(np.float64)
    )
    # einsum and not @: a BLAS sums in an order that depends on its threads, and saved answers must score bit-equal.
    return statistic(np.einsum("rc,ck->rk", times_RC, sums_CK))


def _sums(items_NK: np.ndarray, clusters: Sequence[Hashable]) -> np.ndarray:
    """[C, K], clusters in the order of their first item."""
    assert len(items_NK) == len(clusters) > 0, (items_NK.shape, len(clusters))
    number: dict[Hashable, int] = {}
    of_item = [number.setdefault(cluster, len(number)) for cluster in clusters]
    sums_CK = np.zeros((len(number), items_NK.shape[1]))
    np.add.at(sums_CK, of_item, items_NK)
    return sums_CK
