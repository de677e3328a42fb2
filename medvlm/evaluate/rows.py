"""Computes a row of the results from its items: value, interval, baselines, and the paired difference from the
strongest baseline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isnan
from statistics import mean
from typing import Any

import numpy as np

from medvlm.core.measure import Measure
from medvlm.core.protocols import Paired, Row
from medvlm.metrics.bootstrap import find_reach, interval, resample, value

DIGITS = 6
"""Number of decimals in the results."""


@dataclass(frozen=True)
class Part:
    """Items that share a metric. numbers: indices of the items. columns: the input of the measure, [N, K], for the
    model (`answer`) and each baseline; NaN for an item that a baseline did not answer. clusters: for each item a
    number that items of one patient share. drawn: the draws that were made, since several rows need them."""

    numbers: Sequence[int]
    columns: Mapping[str, np.ndarray]
    clusters: Sequence[int]
    drawn: dict[Any, np.ndarray] = field(default_factory=dict, compare=False)

    def keep_answered(self, who: str) -> Part:
        """The items that a baseline answered."""
        return self._keep(np.flatnonzero(~np.isnan(self.columns[who]).any(axis=1)).tolist())

    def keep(self, numbers: Collection[int]) -> Part:
        """The items that are among these."""
        return self._keep([n for n, number in enumerate(self.numbers) if number in numbers])

    def _keep(self, kept: Sequence[int]) -> Part:
        if len(kept) == len(self.numbers):
            return self
        return Part(
            [self.numbers[n] for n in kept],
            {name: columns_NK[kept] for name, columns_NK in self.columns.items()},
            [self.clusters[n] for n in kept],
        )


def make_row(measure: Measure, metric: str, parts: Sequence[Part], settings: Mapping[str, Any]) -> Row:
    """metric: the measure's, or its name for a part of the items. parts: the row is the mean of their metrics, over the
    parts where the metric is defined. settings: an entry of protocol.json."""
    own = find_value(measure, parts)
    if measure.bounds and not measure.bounds[0] - 1e-9 <= own <= measure.bounds[1] + 1e-9:
        raise ValueError(
            f"the measure {measure.group}.{metric} is {own}, outside its bounds {measure.bounds}; a metric without"
            " limits has Measure(bounds=None)"
        )
    support = count_support(measure, parts)
    found = ((who, _keep_answered(parts, who)) for who in parts[0].columns if who != "answer")
    values = {who: (kept, find_value(measure, kept, who)) for who, kept in found if kept}
    # Without those for whom the metric is not defined, such as F1 of a class that neither they nor the references have.
    answered = {who: kept for who, (kept, baseline) in values.items() if not isnan(baseline)}
    n = count_items(parts)
    return {
        "dataset": settings["dataset"],
        "split": settings["split"],
        "task": measure.group,
        "metric": metric,
        "value": shorten(own),
        "ci": round_bounds(*_find_interval(measure, parts, own, support, settings)),
        "n": n,
        "patients": count_clusters(parts),
        "baselines": {who: shorten(values[who][1]) for who in answered},
        "unanswered": {who: n - count for who, of in answered.items() if (count := count_items(of)) < n},
        "paired": _compare(measure, answered, settings) if measure.better and answered else None,
    }


def _find_interval(
    measure: Measure, parts: Sequence[Part], own: float, support: int, settings: Mapping[str, Any]
) -> tuple[float, float]:
    low, high = interval(_draw(measure, parts, "answer", settings), own, support, measure.bounds)
    if measure.deviation is None or isnan(low):
        return low, high
    # Their mean is at least the deviation of the mean.
    deviations = [
        _draw(replace(measure, statistic=measure.deviation(part.columns["answer"])), [part], "answer", settings, parts)
        for part in parts
    ]
    return max(measure.bounds[0] if measure.bounds else -inf, own - find_reach(_average(deviations), support)), high


def _compare(measure: Measure, answered: Mapping[str, Sequence[Part]], settings: Mapping[str, Any]) -> Paired:
    """The difference from the strongest baseline, and the verdict over all of them. answered: the items of each
    baseline.

    The strongest baseline is chosen on the same answers, so chance favours it. Therefore the model is `better` only if
    it is better than each baseline by its own interval (the intersection-union test of Berger 1982), and `worse` if it
    is worse than the strongest at 5 % divided by their number (Bonferroni).
    """
    sign = 1 if measure.better == "higher" else -1
    gaps = {who: Gap(measure, parts, settings, [who]) for who, parts in answered.items()}
    strongest = max(gaps, key=lambda who: sign * gaps[who].other)
    strict = gaps[strongest].find_bounds(1 - 0.05 / len(gaps))
    is_better = all(min(sign * bound for bound in gap.find_bounds()) > 0 for gap in gaps.values())
    is_worse = max(sign * bound for bound in strict) < 0
    return {
        "against": strongest,
        "difference": shorten(gaps[strongest].value),
        "ci": round_bounds(*gaps[strongest].find_bounds()),
        "verdict": "better" if is_better else "worse" if is_worse else "",
    }


class Gap:
    """The difference of the model from a baseline on the items that the baseline answered. others, own: columns of the
    parts; of several, such as runs with other seeds, the mean."""

    def __init__(
        self,
        measure: Measure,
        parts: Sequence[Part],
        settings: Mapping[str, Any],
        others: Sequence[str],
        own: Sequence[str] = ("answer",),
    ):
        self.values, self.against = ([find_value(measure, parts, who) for who in of] for of in (own, others))
        self.own, self.other = (float(np.mean(of)) for of in (self.values, self.against))
        self.value = self.own - self.other
        self.own_R, other_R = (
            np.mean([_draw(measure, parts, who, settings) for who in of], axis=0) for of in (own, others)
        )
        self.difference_R = self.own_R - other_R
        self.num_clusters, self.bounds = count_support(measure, parts), measure.bounds
        defined = self.difference_R[~np.isnan(self.difference_R)]
        self.is_constant = bool(len(defined) and np.ptp(defined) < 1e-9)
        """Whether all draws give the same difference."""

    def find_bounds(self, confidence: float = 0.95) -> tuple[float, float]:
        if self.bounds is None:
            return interval(self.difference_R, self.value, self.num_clusters, None, confidence)
        if self.is_constant:
            # All patients agree on the difference, so the baseline is as good as a constant, such as an AUROC of 0.5.
            # Fewer than six patients prove nothing by that: the sign test has p = 2 * 0.5 ** patients.
            low, high = interval(self.own_R, self.own, self.num_clusters, self.bounds, confidence)
            low, high = low - self.other, high - self.other
            is_proven = 2 * 0.5**self.num_clusters <= 1 - confidence
            return (low, high) if is_proven else (min(low, 0.0), max(high, 0.0))
        width = self.bounds[1] - self.bounds[0]
        return interval(self.difference_R, self.value, self.num_clusters, (-width, width), confidence)


class ModelGap(Gap):
    """The difference of two models, neither of which is a constant, each trained with one or several seeds."""

    def find_bounds(self, confidence: float = 0.95) -> tuple[float, float]:
        """Of patients, and of seeds if there are several. Where all patients agree on the difference, that of another
        one may still be different: the share of such patients has the interval of a share of 0."""
        seeds = [of for of in (self.values, self.against) if len(of) > 1]
        width = self.bounds[1] - self.bounds[0] if self.bounds else None
        if any(np.ptp(of) > 0 for of in seeds):
            bounds = None if width is None else (-width, width)
            return interval(self.difference_R, self.value, self.num_clusters, bounds, confidence, seeds)
        if width is None or not self.is_constant:
            return super().find_bounds(confidence)
        _, share = interval(np.zeros(1), 0.0, self.num_clusters, (0.0, 1.0), confidence)
        return max(-width, self.value - share * width), min(width, self.value + share * width)

    def find_p(self) -> float:
        """The p-value of no difference: the smallest alpha whose interval leaves 0 out, to 1e-4; 1.0 if none does."""
        low, high = 1e-4, 1.0
        if not self._excludes_zero(low) and not self._excludes_zero(0.999):
            return 1.0
        while high - low > 1e-4:
            middle = (low + high) / 2
            low, high = (low, middle) if self._excludes_zero(middle) else (middle, high)
        return high

    def _excludes_zero(self, alpha: float) -> bool:
        bottom, top = self.find_bounds(1 - alpha)
        return bottom > 0 or top < 0


def _draw(
    measure: Measure,
    parts: Sequence[Part],
    who: str,
    settings: Mapping[str, Any],
    together_with: Sequence[Part] = (),
) -> np.ndarray:
    """The mean metric of the parts in each draw. together_with: draws patients as for these parts."""
    together = tuple(dict.fromkeys(cluster for part in together_with or parts for cluster in part.clusters))
    how = measure.statistic, settings["resamples"], settings["seed"], together
    for part in parts:
        if (who, how) not in part.drawn:
            with np.errstate(invalid="ignore"):  # 0 / 0 if a draw has no item of a part
                part.drawn[who, how] = resample(part.columns[who], part.clusters, *how)
    with np.errstate(invalid="ignore"):
        return _average([part.drawn[who, how] for part in parts])


def _keep_answered(parts: Sequence[Part], who: str) -> list[Part]:
    kept = [part.keep_answered(who) for part in parts]
    return [part for part in kept if part.numbers]


def count_items(parts: Sequence[Part]) -> int:
    return len({number for part in parts for number in part.numbers})


def count_clusters(parts: Sequence[Part]) -> int:
    return len({cluster for part in parts for cluster in part.clusters})


def count_support(measure: Measure, parts: Sequence[Part]) -> int:
    """The number of clusters that determine the spread of the metric: of the rarest group of items that it needs. Of
    several parts, such as classes, the mean of their numbers, because rare classes contribute most to the spread."""
    if measure.needs is None:
        return count_clusters(parts)
    return round(mean([_count_rarest(measure.needs, part) for part in parts]))


def _count_rarest(needs: Callable[[np.ndarray], Sequence[np.ndarray]], part: Part) -> int:
    groups = needs(part.columns["answer"])
    return min(
        len({cluster for cluster, is_in in zip(part.clusters, is_in_N, strict=True) if is_in}) for is_in_N in groups
    )


def find_value(measure: Measure, parts: Sequence[Part], who: str = "answer") -> float:
    """The mean metric of the parts; NaN if it is defined for none of them."""
    with np.errstate(invalid="ignore"):
        return float(_average([np.array([value(part.columns[who], measure.statistic)]) for part in parts])[0])


def _average(metrics: Sequence[np.ndarray]) -> np.ndarray:
    """The mean, ignoring NaN."""
    if len(metrics) == 1:
        return metrics[0]
    defined = ~np.isnan(metrics)
    averaged: np.ndarray = np.where(defined, metrics, 0.0).sum(0) / defined.sum(0)
    return averaged


def shorten(number: float) -> float:
    return round(number, DIGITS)


def round_bounds(low: float, high: float) -> list[float] | None:
    """None where the data say nothing about an interval, as with one patient."""
    return None if isnan(low) else [shorten(low), shorten(high)]
