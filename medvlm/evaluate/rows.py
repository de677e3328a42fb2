"""A row of the results from the numbers of its items: value, interval, baselines, and the paired difference from the
strongest baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medvlm.core.measure import Measure
from medvlm.core.protocols import Paired, Row
from medvlm.metrics.bootstrap import interval, resample, value

DIGITS = 6
"""Numbers are rounded to so many decimals."""


def make_row(
    measure: Measure,
    metric: str,
    columns: Mapping[str, np.ndarray],
    clusters: Sequence[int],
    settings: Mapping[str, Any],
) -> Row:
    """metric: the measure's, or its name for a part of the items. columns: what the measure takes, [N, K], of the model
    (`answer`) and of each baseline. clusters: a number that items of one patient share. settings: an entry of
    protocol.json."""

    def draw(who: str) -> np.ndarray:
        return resample(columns[who], clusters, measure.statistic, settings["resamples"], settings["seed"])

    values = {who: value(items_NK, measure.statistic) for who, items_NK in columns.items()}
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
        "n": len(clusters),
        "baselines": {who: shorten(baseline) for who, baseline in baselines.items()},
        "paired": paired,
    }


def shorten(number: float) -> float:
    return round(number, DIGITS)


def find_interval(metric_R: np.ndarray) -> list[float]:
    """The bounds of 95 % of the draws."""
    low, high = interval(metric_R)
    return [shorten(low), shorten(high)]
