"""Compares the saved answers of several models to the same questions, paired by patient. Asks no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.core.config import component
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, mean
from medvlm.core.protocols import FOLDER, Record
from medvlm.evaluate.rows import ModelGap, Part, count_clusters, count_items, round_bounds, shorten
from medvlm.evaluate.saved import SavedSplit, read_saved
from medvlm.metrics.paired import holm, mcnemar

REFERENCE = "answer"


@dataclass(frozen=True)
class Comparison:
    """One metric of two models on the questions that both answered.

    value: of the model. against: of the reference. difference: value - against, with its 95 % interval `ci` by
    patients. p: of no difference, from the same draws. holm: p, corrected for all comparisons of headline metrics; None
    for other metrics, which are only descriptive. mcnemar: the p-value of McNemar's test, for answers that are right or
    wrong. better: None if the metric is only informative. left_out: records that only one of them has."""

    model: str
    reference: str
    dataset: str
    split: str
    task: str
    metric: str
    better: str | None
    is_headline: bool
    value: float
    against: float
    difference: float
    ci: list[float] | None
    p: float
    mcnemar: float | None
    n: int
    patients: int
    left_out: int
    holm: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def verdict(self) -> str:
        """`better` or `worse` than the reference, or "" if neither is proven."""
        if self.holm is None or self.holm >= 0.05 or self.better is None:
            return ""
        return "better" if (self.difference > 0) == (self.better == "higher") else "worse"


def compare(evaluated: Mapping[str, Path]) -> list[Comparison]:
    """Each model against the first one. evaluated: name -> RUN/evaluate.

    Raises DataError for damaged files, and if two models were asked nothing in common."""
    (reference, first), *others = ((name, read_saved(folder)) for name, folder in evaluated.items())
    found: list[Comparison] = []
    for name, saved in others:
        of_pair = [c for own in first for c in _compare_split(own, saved, name, reference)]
        if not of_pair:
            raise DataError(
                f"{name} and {reference} have no data set, split and protocol in common; evaluate both on one"
            )
        found += of_pair
    found = [replace(each, is_headline=each.is_headline and not _is_repeated(n, found)) for n, each in enumerate(found)]
    tested = [n for n, each in enumerate(found) if each.is_headline]
    for n, p in zip(tested, holm([found[n].p for n in tested]), strict=True):
        found[n] = replace(found[n], holm=round(p, 4))
    return found


def _is_repeated(at: int, found: Sequence[Comparison]) -> bool:
    """Whether an earlier headline metric has the same numbers, as the accuracy of closed questions has where all are
    closed. It is one comparison, not two."""
    return any(before.is_headline and before == replace(found[at], metric=before.metric) for before in found[:at])


def _compare_split(own: SavedSplit, others: Sequence[SavedSplit], name: str, reference: str) -> list[Comparison]:
    same = [other for other in others if (other.dataset, other.split) == (own.dataset, own.split)]
    found: list[Comparison] = []
    for other in same:
        for kind in own.records.keys() & other.records.keys():
            protocol = component(FOLDER, kind)
            if hasattr(protocol, "merge"):
                found += _compare_protocol(protocol, own, other, kind, name, reference)
    return found


def _compare_protocol(
    protocol: Any, own: SavedSplit, other: SavedSplit, kind: str, name: str, reference: str
) -> list[Comparison]:
    who = f"run {name}"  # no baseline is called so
    merged: list[Record] = protocol.merge(own.records[kind], other.records[kind], who)
    left_out = len(own.records[kind]) + len(other.records[kind]) - 2 * len(merged)
    settings = {**own.settings, "baselines": [who], "rewards": None}
    found = []
    for measure, metric, parts in protocol.list_parts(merged, settings):
        both = [part for part in (part.keep_answered(who) for part in parts if who in part.columns) if part.numbers]
        gap = ModelGap(measure, both, who, settings) if both else None
        if gap is None or isnan(gap.value):
            continue
        low, high = gap.find_bounds()
        found.append(
            Comparison(
                model=name,
                reference=reference,
                dataset=own.dataset,
                split=own.split,
                task=measure.group,
                metric=metric,
                better=measure.better,
                is_headline=measure.headline and metric == measure.metric,
                value=shorten(gap.other),
                against=shorten(gap.own),
                difference=shorten(gap.other - gap.own) + 0.0,  # no -0.0
                ci=round_bounds(0.0 - high, 0.0 - low),
                p=round(gap.find_p(), 4),
                mcnemar=_test(measure, both, who),
                n=count_items(both),
                patients=count_clusters(both),
                left_out=left_out,
            )
        )
    return found


def _test(measure: Measure, parts: Sequence[Part], who: str) -> float | None:
    """McNemar's p-value, if the metric is a share of right answers."""
    if measure.statistic is not mean or len(parts) != 1:
        return None
    columns = parts[0].columns
    if not all(np.isin(columns[each], (0, 1)).all() for each in (REFERENCE, who)):
        return None
    return round(mcnemar(columns[REFERENCE][:, 0], columns[who][:, 0], parts[0].clusters), 4)
