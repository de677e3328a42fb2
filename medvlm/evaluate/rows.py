"""A row of the results from the numbers of its items: value, interval, baselines, and the paired difference from the
strongest baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medvlm.core.measure import Measure
from medvlm.core.protocols import Paired, Row
from medvlm.metrics.bootstrap import interval, resample, value

DIGITS = 6
"""Numbers are rounded to so many decimals."""


@dataclass(frozen=True)
class Part:
    """Items that have a metric together. numbers: which items they are. columns: what the measure takes, [N, K], of the
    model (`answer`) and of each baseline. clusters: a number that items of one patient share."""

    numbers: Sequence[int]
    columns: Mapping[str, np.ndarray]
    clusters: Sequence[int]


def make_row(measure: Measure, metric: str, parts: Sequence[Part], settings: Mapping[str, Any]) -> Row:
    """metric: the measure's, or its name for a part of the items. parts: the row is the mean of their metrics, over
    those that define it. settings: an entry of protocol.json."""
    together = [cluster for part in parts for cluster in part.clusters]

    def draw(who: str) -> np.ndarray:
        how = measure.statistic, settings["resamples"], settings["seed"], together
        with np.errstate(invalid="ignore"):  # 0 / 0 where a draw has no item of a part
            return _average([resample(part.columns[who], part.clusters, *how) for part in parts])

    values = {who: find_value(measure, parts, who) for who in parts[0].columns}
    own, baselines = values.pop("answer"), values
    own_R = draw("answer")
    paired: Paired | None = None
    if measure.better and baselines:
        against = (max if measure.better == "higher" else min)(baselines, key=lambda who: baselines[who])
        difference_R = own_R - draw(against)
        paired = {
            "against": against,
            "difference": shorten(own - baselines[against]),
            "ci": find_interval(difference_R),
        }
    return {
        "dataset": settings["dataset"],
        "split": settings["split"],
        "task": measure.group,
        "metric": metric,
        "value": shorten(own),
        "ci": find_interval(own_R),
        "n": len({number for part in parts for number in part.numbers}),
        "baselines": {who: shorten(baseline) for who, baseline in baselines.items()},
        "paired": paired,
    }


def find_value(measure: Measure, parts: Sequence[Part], who: str = "answer") -> float:
    """NaN where no part defines the metric."""
    with np.errstate(invalid="ignore"):
        return float(_average([np.array([value(part.columns[who], measure.statistic)]) for part in parts])[0])


def _average(metrics: Sequence[np.ndarray]) -> np.ndarray:
    """Over those that are numbers."""
    if len(metrics) == 1:
        return metrics[0]
    defined = ~np.isnan(metrics)
    averaged: np.ndarray = np.where(defined, metrics, 0.0).sum(0) / defined.sum(0)
    return averaged


def shorten(number: float) -> float:
    return round(number, DIGITS)


def find_interval(metric_R: np.ndarray) -> list[float]:
    """The bounds of 95 % of the draws."""
    low, high = interval(metric_R)
    return [shorten(low), shorten(high)]
