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
from medvlm.core.measure import Measure, OfJudge, mean
from medvlm.core.protocols import FOLDER, Record
from medvlm.evaluate.rows import ModelGap, Part, count_clusters, count_items, round_bounds, shorten
from medvlm.evaluate.saved import SavedSplit, read_saved
from medvlm.metrics.paired import holm, mcnemar

REFERENCE = "answer"


@dataclass(frozen=True)
class Comparison:
    """One metric of two models on the questions that all of their runs answered.

    value: of the model. against: of the reference. values, values_against: of each of their runs, which are trained
    with different seeds; value and against are the means. difference: value - against, with its 95 % interval `ci` by
    patients and by seeds. p: of no difference, like the interval. holm: p, corrected for all comparisons of headline
    metrics; None for other metrics, which are only descriptive. mcnemar: the p-value of McNemar's test, for answers of
    single runs that are right or wrong. better: None if the metric is only informative. left_out: records that some of
    the runs lack. other_judge: the answers were scored by different judges, so these scores are not compared."""

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
    values: list[float]
    values_against: list[float]
    holm: float | None = None
    other_judge: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def verdict(self) -> str:
        """`better` or `worse` than the reference, or "" if neither is proven."""
        if self.holm is None or self.holm >= 0.05 or self.better is None:
            return ""
        return "better" if (self.difference > 0) == (self.better == "higher") else "worse"


def find_deviation(values: Sequence[float]) -> float | None:
    """The standard deviation over seeds; None with one seed."""
    return shorten(float(np.std(values, ddof=1))) if len(values) > 1 else None


def explain_left_out(found: Sequence[Comparison]) -> list[str]:
    """What is not compared, a sentence each."""
    notes = set()
    for each in found:
        where = f"{each.model}, {each.dataset}:{each.split}"
        if each.left_out:
            notes.add(f"{where}: {each.left_out} records are not of all runs.")
        if each.other_judge:
            notes.add(f"{where}: judged by another model or other prompts, so scores of judges are not compared.")
    return sorted(notes)


def list_seed_notes(found: Sequence[Comparison]) -> list[str]:
    """What the numbers of several seeds are, if there are several."""
    runs = {each.model: len(each.values) for each in found} | {found[0].reference: len(found[0].values_against)}
    if max(runs.values()) < 2:
        return []
    listed = ", ".join(f"{name} {count}" for name, count in runs.items())
    notes = [f"mean \N{PLUS-MINUS SIGN} standard deviation over seeds ({listed}); intervals hold patients and seeds"]
    single = [name for name, count in runs.items() if count < 2]
    if single:
        notes.append(f"{', '.join(single)}: one seed, so its spread over seeds is unknown and in no interval")
    return notes


def compare(evaluated: Mapping[str, Sequence[Path]]) -> list[Comparison]:
    """Each model against the first one. evaluated: name -> RUN/evaluate of each of its runs.

    Raises DataError for damaged files, if two models were asked nothing in common, and if the runs of one model were
    not asked the same."""
    (reference, first), *others = ((name, _read_model(name, folders)) for name, folders in evaluated.items())
    found: list[Comparison] = []
    for name, runs in others:
        of_pair = [
            comparison
            for where in first
            if where in runs
            for comparison in _compare_protocol(first[where], runs[where], where[2], name, reference)
        ]
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


Where = tuple[str, str, str]
"""Data set, split and protocol."""


def _read_model(name: str, folders: Sequence[Path]) -> dict[Where, list[SavedSplit]]:
    """What was asked, and by which runs of a model."""
    found: dict[Where, list[SavedSplit]] = {}
    for folder in folders:
        for saved in read_saved(folder):
            for kind in saved.records:
                if hasattr(component(FOLDER, kind), "merge"):
                    found.setdefault((saved.dataset, saved.split, kind), []).append(saved)
    for (dataset, split, kind), runs in found.items():
        if len(runs) < len(folders):
            raise DataError(
                f"{name}: {len(runs)} of its {len(folders)} runs are evaluated on {dataset}:{split} by the protocol"
                f" {kind}; evaluate the others on it too"
            )
    return found


def _compare_protocol(
    own: Sequence[SavedSplit], others: Sequence[SavedSplit], kind: str, name: str, reference: str
) -> list[Comparison]:
    protocol: Any = component(FOLDER, kind)
    # No baseline is called so.
    models, more = (
        [f"run {who} {number}" for number in range(len(runs))] for who, runs in ((name, others), (reference, own[1:]))
    )
    merged: list[Record] = own[0].records[kind]
    for who, saved in zip((*more, *models), (*own[1:], *others), strict=True):
        merged = protocol.merge(merged, saved.records[kind], who)
    runs = (*own, *others)
    left_out = sum(len(saved.records[kind]) for saved in runs) - len(runs) * len(merged)
    settings = {**own[0].settings, "baselines": [*more, *models], "rewards": None}
    has_one_judge = all(
        saved.settings.get(name) == settings.get(name) for saved in runs for name in ("judge", "radeval", "meteor")
    )
    found = []
    for measure, metric, parts in protocol.list_parts(merged, settings):
        if isinstance(measure.columns, OfJudge) and not has_one_judge:
            continue
        answered = _keep_answered(parts, settings["baselines"])
        gap = ModelGap(measure, answered, settings, models, [REFERENCE, *more]) if answered else None
        if gap is None or isnan(gap.value):
            continue
        low, high = gap.find_bounds()
        found.append(
            Comparison(
                model=name,
                reference=reference,
                dataset=own[0].dataset,
                split=own[0].split,
                task=measure.group,
                metric=metric,
                better=measure.better,
                is_headline=measure.headline and metric == measure.metric,
                value=shorten(gap.other),
                against=shorten(gap.own),
                difference=shorten(gap.other - gap.own) + 0.0,  # no -0.0
                ci=round_bounds(0.0 - high, 0.0 - low),
                p=round(gap.find_p(), 4),
                mcnemar=_test(measure, answered, models[0]) if len(runs) == 2 else None,
                n=count_items(answered),
                patients=count_clusters(answered),
                left_out=left_out,
                other_judge=not has_one_judge,
                values=list(map(shorten, gap.against)),
                values_against=list(map(shorten, gap.values)),
            )
        )
    return found


def _keep_answered(parts: Sequence[Part], runs: Sequence[str]) -> list[Part]:
    """The items that all runs answered."""
    kept = [part for part in parts if part.columns.keys() >= set(runs)]
    for who in runs:
        kept = [part.keep_answered(who) for part in kept]
    return [part for part in kept if part.numbers]


def _test(measure: Measure, parts: Sequence[Part], who: str) -> float | None:
    """McNemar's p-value, if the metric is a share of right answers."""
    if measure.statistic is not mean or len(parts) != 1:
        return None
    columns = parts[0].columns
    if not all(np.isin(columns[each], (0, 1)).all() for each in (REFERENCE, who)):
        return None
    return round(mcnemar(columns[REFERENCE][:, 0], columns[who][:, 0], parts[0].clusters), 4)
