"""Rows of robustness: the performance under a change, the relative robustness, and what they mean.

A metric is one of a task whose value is a mean of scores in [0, 1], such as `accuracy`. Its relative robustness,
`rr_accuracy`, is the share of the performance that is left under the change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medvlm.core.measure import Measure, average, mean
from medvlm.core.protocols import Record, Row
from medvlm.evaluate.protocols import _rows
from medvlm.evaluate.rows import Part, make_row, round_bounds
from medvlm.metrics.bootstrap import interval, resample
from medvlm.metrics.robustness import find_ratio_bounds, relative_robustness

CORRUPTED, REWORDED, REORDERED, SHIFTED = "corrupted", "reworded", "reordered", "shifted"
CHANGES = {
    CORRUPTED: "corrupted images",
    REWORDED: "other wordings",
    REORDERED: "other orders of the options",
    SHIFTED: "samples out of distribution",
}
"""Group of rows -> what has changed."""
DEPENDS = {REWORDED: "the wording", REORDERED: "the order of the options"}
"""Group of rows -> what an answer should not depend on at all."""
KEPT = 0.9
"""A model is robust if the whole interval of what it keeps is above, and fragile if it is below."""
RATIO = "rr_"
CONSISTENT = "consistent"
UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Share:
    """A metric whose value is a mean of scores. name: unique among those of a split. is_main: the first of its group,
    which has rows of details too."""

    measure: Measure
    name: str
    part: Part
    is_main: bool


def list_shares(records: Sequence[Record], baselines: Sequence[str], settings: Mapping[str, Any]) -> Iterator[Share]:
    """baselines: keys of the records, each answered instead of `answer`."""
    asked = {**settings, "baselines": baselines, "rewards": None}
    found = [
        (measure, parts[0])
        for measure, metric, parts in _rows.list_parts(records, asked)
        if metric == measure.metric and len(parts) == 1 and _is_share(measure)
    ]
    often = Counter(measure.metric for measure, _ in found)
    groups: set[str] = set()
    for measure, part in found:
        name = measure.metric if often[measure.metric] == 1 else f"{measure.group}_{measure.metric}"
        yield Share(measure, name, part, measure.group not in groups)
        groups.add(measure.group)


def _is_share(measure: Measure) -> bool:
    return measure.statistic is mean and measure.bounds == (0.0, 1.0) and measure.better == "higher"


def make_measure(metric: str, group: str, *, is_judged: bool = True) -> Measure:
    """A mean of scores; is_judged: whether higher values are better."""
    measure = Measure(metric, group, average(lambda answer, truth: answer))
    return measure if is_judged else replace(measure, better=None)


def make_ratio(metric: str, group: str) -> Measure:
    """Of columns [N, 4]: score and count in distribution, then out of it."""
    return Measure(
        f"{RATIO}{metric}",
        group,
        lambda answer, truth: answer,
        better=None,
        statistic=relative_robustness,
        bounds=None,
    )


def make_ratio_row(metric: str, group: str, label: str, part: Part, settings: Mapping[str, Any]) -> Row:
    """label: of a part, `:jpeg`, or "". part: with columns of 4, whose score in distribution is not 0."""
    measure = make_ratio(metric, group)
    row = make_row(measure, f"{measure.metric}{label}", [part], settings)
    row["ci"] = round_bounds(*_find_bounds(part, settings))
    return row


def _find_bounds(part: Part, settings: Mapping[str, Any]) -> tuple[float, float]:
    """From the intervals of the two shares, each with the number of its patients, because percentiles of the ratio
    would be too narrow for few.

    Where the ratio is the same in all draws, because all patients agree, patients of others may still differ: their
    share u has the interval of a share of 0, and each may have any score out of distribution."""
    items_N4 = part.columns["answer"]

    def draw(statistic: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return resample(items_N4, part.clusters, statistic, settings["resamples"], settings["seed"])

    drawn_R2 = np.stack([draw(lambda totals: totals[:, 0] / totals[:, 1]), draw(lambda t: t[:, 2] / t[:, 3])], axis=1)
    score_in, count_in, score_out, count_out = items_N4.sum(axis=0).tolist()
    values = score_in / count_in, score_out / count_out
    supports = [
        len({cluster for cluster, is_there in zip(part.clusters, items_N4[:, at] > 0, strict=True) if is_there})
        for at in (1, 3)
    ]
    defined_R2 = drawn_R2[~np.isnan(drawn_R2).any(axis=1)]
    if min(supports) < 2 or len(defined_R2) < 2:
        return np.nan, np.nan
    if np.ptp(defined_R2[:, 1] * values[0] - defined_R2[:, 0] * values[1]) < 1e-9:
        _, share = interval(np.zeros(1), 0.0, min(supports), (0.0, 1.0))
        low = values[1] / values[0] * (1 - share)
        return low, low + share / values[0]
    bounds = [interval(drawn_R2[:, at], values[at], supports[at], (0.0, 1.0)) for at in (0, 1)]
    vary = (np.ptp(defined_R2, axis=0) > 1e-9).all()
    correlation = float(np.corrcoef(defined_R2.T)[0, 1]) if vary else 0.0
    return find_ratio_bounds(values[0], bounds[0], values[1], bounds[1], correlation)


def find_robustness(row: Mapping[str, Any]) -> str:
    """`robust`, `fragile`, or "" where nothing is proven, and for rows that do not tell."""
    ci, kept = row.get("ci"), str(row.get("metric", "")).partition(":")[0]
    if row.get("task") not in CHANGES or not ci:
        return ""
    if ci[0] > KEPT and (kept.startswith(RATIO) or kept in (CONSISTENT, UNCHANGED)):
        return "robust"
    # Answers may change with the image; where only the words or the order of a question change, they should not.
    should_stay = kept.startswith(RATIO) or (kept == CONSISTENT and row["task"] in DEPENDS)
    return "fragile" if ci[1] < KEPT and should_stay else ""


def explain(row: Mapping[str, Any]) -> str:
    """What a row of a fragile model means; "" for others, and where nothing is proven."""
    return _say(row) if find_robustness(row) == "fragile" else ""


def confirm(row: Mapping[str, Any]) -> str:
    """What a row of a robust model means, for rows over all changes."""
    return _say(row) if find_robustness(row) == "robust" and ":" not in row["metric"] else ""


def _say(row: Mapping[str, Any]) -> str:
    metric, _, part = row["metric"].partition(":")
    change = CHANGES[row["task"]] + (f" ({part})" if part else "")
    is_fragile = find_robustness(row) == "fragile"
    if metric == CONSISTENT:
        kept = f"{row['value']:.1%} of the questions have the same answer with all {change}"
        return f"the answers depend on {DEPENDS[row['task']]}: {kept}" if is_fragile else f"robust: {kept}"
    if metric == UNCHANGED:
        return f"robust: {row['value']:.1%} of the answers are the same with {change}"
    kept = f"with {change}, {row['value']:.1%} of the {metric.removeprefix(RATIO)} is left"
    return f"{'fragile' if is_fragile else 'robust'}: {kept}"


def average_scores(columns: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the scores of each item [N], ignoring NaN; NaN where there is none. columns: each [N, 2]."""
    scores_VN = np.stack([column_N2[:, 0] for column_N2 in columns])
    is_there_VN = ~np.isnan(scores_VN)
    with np.errstate(invalid="ignore"):
        averaged_N: np.ndarray = np.where(is_there_VN, scores_VN, 0.0).sum(0) / is_there_VN.sum(0)
    return averaged_N


def make_part(records: Sequence[Record], value: Callable[[Record], float | None]) -> Part | None:
    """A mean over the records for which `value` is no None; None if there are none."""
    found = [(n, number) for n, record in enumerate(records) if (number := value(record)) is not None]
    if not found:
        return None
    column = np.array([(number, 1.0) for _, number in found])
    return Part([n for n, _ in found], {"answer": column}, [records[n]["cluster"] for n, _ in found])
