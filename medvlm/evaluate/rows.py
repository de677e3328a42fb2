"""Saved records to result rows: values, intervals, baselines, and the paired difference from the strongest baseline."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import Any

import numpy as np

from medvlm.core.measure import Measure, mean
from medvlm.core.sample import truth_from_json
from medvlm.evaluate.measures import list_measures
from medvlm.evaluate.protocol import Paired, Row
from medvlm.metrics.bootstrap import interval, resampled, value

Record = dict[str, Any]
MAJORITY = "majority"
DIGITS = 6
"""Numbers are rounded to so many decimals."""


def rows_of(answers: Sequence[Record], pairs: Sequence[Record], settings: Record) -> list[Row]:
    """The rows of one split. settings: its entry of protocol.json: dataset, split, baselines, resamples, seed,
    rewards."""
    return [*_answer_rows(answers, settings), *_retrieval_rows(pairs, settings)]


def _answer_rows(answers: Sequence[Record], settings: Record) -> list[Row]:
    truths = [truth_from_json(record["truth"]) for record in answers]
    rows = []
    for measure in list_measures({truth.task for truth in truths}, settings["rewards"]):
        about = [n for n, record in enumerate(answers) if measure.is_about(record["template"], truths[n])]
        columns = {
            who: np.array([measure.columns(_said_by(who, answers[n], measure), truths[n]) for n in about])
            for who in ("answer", *settings["baselines"])
            # A baseline that could not answer every question (no partner to shuffle with) is left out of the row.
            if about and all(answers[n][who] is not None for n in about)
        }
        if not columns or isnan(value(columns["answer"], measure.statistic)):
            continue
        clusters = [answers[n]["cluster"] for n in about]
        rows.append(_row(measure, measure.metric, columns, clusters, settings))
        templates = sorted({answers[n]["template"] for n in about}) if measure.by_template else []
        for template in templates:
            chosen = [at for at, n in enumerate(about) if answers[n]["template"] == template]
            of_template = {who: items_NK[chosen] for who, items_NK in columns.items()}
            if not isnan(value(of_template["answer"], measure.statistic)):
                own = [clusters[at] for at in chosen]
                rows.append(_row(measure, f"{measure.metric}:{template}", of_template, own, settings))
    return rows


def _said_by(who: str, record: Record, measure: Measure) -> Any:
    """An answer; of the majority baseline the constant for this measure, where it has one of its own."""
    constants: dict[str, Any] = record.get("constants") or {} if who == MAJORITY else {}
    return constants.get(measure.metric, record[who])


def _row(measure: Measure, metric: str, columns: dict[str, np.ndarray], clusters: list[int], settings: Record) -> Row:
    def drawn(who: str) -> np.ndarray:
        return resampled(columns[who], clusters, measure.statistic, settings["resamples"], settings["seed"])

    values = {who: value(items_NK, measure.statistic) for who, items_NK in columns.items()}
    own, baselines = values.pop("answer"), values
    own_R = drawn("answer")
    paired: Paired | None = None
    if measure.better and baselines:
        against = (max if measure.better == "higher" else min)(baselines, key=lambda who: baselines[who])
        paired = {"against": against, "difference": _short(own - baselines[against]), "ci": _ci(own_R - drawn(against))}
    return {
        "dataset": settings["dataset"],
        "split": settings["split"],
        "task": measure.group,
        "metric": metric,
        "value": _short(own),
        "ci": _ci(own_R),
        "n": len(clusters),
        "baselines": {who: _short(baseline) for who, baseline in baselines.items()},
        "paired": paired,
    }


def _retrieval_rows(pairs: Sequence[Record], settings: Record) -> list[Row]:
    """Top-1 with the gallery as it is: images (of patients) or texts are drawn again, the candidates are not."""
    rows: list[Row] = []
    for direction in ("image_to_text", "text_to_image"):
        found = [pair for pair in pairs if pair["direction"] == direction]
        if not found:
            continue
        items_NK = np.array([(float(pair["rank"] == 0), 1.0) for pair in found])
        gain_NK = items_NK - [(pair["chance"], 0.0) for pair in found]
        clusters = [pair["cluster"] for pair in found]
        drawn = {"resamples": settings["resamples"], "seed": settings["seed"]}
        rows.append(
            {
                "dataset": settings["dataset"],
                "split": settings["split"],
                "task": "retrieval",
                "metric": f"{direction}_top1",
                "value": _short(value(items_NK, mean)),
                "ci": _ci(resampled(items_NK, clusters, mean, **drawn)),
                "n": len(found),
                "baselines": {"chance": _short(float(np.mean([pair["chance"] for pair in found])))},
                "paired": {
                    "against": "chance",
                    "difference": _short(value(gain_NK, mean)),
                    "ci": _ci(resampled(gain_NK, clusters, mean, **drawn)),
                },
            }
        )
    return rows


def _short(number: float) -> float:
    return round(number, DIGITS)


def _ci(metric_R: np.ndarray) -> list[float]:
    low, high = interval(metric_R)
    return [_short(low), _short(high)]
