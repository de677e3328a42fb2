"""How often does the 95 % interval hold the truth?

    python benchmarks/coverage.py [--simulations 2000] [--of accuracy] [--of labels] [--of seeds] [--of ratios]

accuracy: answers are right with probability p; those of a patient are alike (beta-binomial, intra-class correlation
0.3). For each number of patients, questions a patient and p it prints the share of simulated data sets whose interval
holds p: the interval of medvlm, and in brackets the plain percentile interval of the same draws.

labels: a share of the patients is ill, and scores of the ill and the well are normal with equal variance, so that
every metric is known; those of a patient are alike (intra-class correlation 0.3). In brackets is the interval whose
width goes by the number of all patients, not by that of the ill or the well.

seeds: two models, each trained with several seeds; the accuracy of a seed is normal around that of its model. It
prints the share of simulated pairs whose interval of the difference holds the true difference, and in brackets that of
the interval by patients alone.

ratios: the relative robustness of answers that are right with one probability in distribution and with another one out
of it (30 % of the patients), and of answers to images before and after a corruption that spoils some of the right ones.
In brackets is the percentile interval of the ratio.

One JSON line at the end of each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import norm

from medvlm.core.measure import Measure, average, mean
from medvlm.core.tasks import find_task
from medvlm.evaluate.protocols._robustness import make_ratio, make_ratio_row
from medvlm.evaluate.rows import ModelGap, Part, find_value, make_row
from medvlm.metrics.bootstrap import interval, resample

PATIENTS, QUESTIONS, SHARES = (10, 30, 100), (1, 4), (0.5, 0.8, 0.95, 0.99)
SHARES_ILL, AREAS = (0.1, 0.3, 0.5), (0.7, 0.9, 0.97)
ALIKE = 0.3
"""Intra-class correlation of the answers of a patient."""
DEVIATIONS = (0.0, 0.03, 0.1)
"""Standard deviations of the accuracy over seeds."""
RESAMPLES = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    measured = {
        "accuracy": measure_accuracy,
        "labels": measure_labels,
        "seeds": measure_seeds,
        "ratios": measure_ratios,
    }
    parser.add_argument("--of", action="append", choices=tuple(measured))
    args = parser.parse_args()
    for what in args.of or measured:
        cells = list(measured[what](args.simulations))
        print(json.dumps({"benchmark": f"coverage of {what}", "simulations": args.simulations, "cells": cells}))


def measure_accuracy(simulations: int) -> Iterator[dict[str, Any]]:
    for patients, questions, p in product(PATIENTS, QUESTIONS, SHARES):
        own, percentile = simulate_accuracy(patients, questions, p, simulations)
        print(f"{patients:4d} patients, {questions} questions, p {p:.2f}: {own:.3f} ({percentile:.3f})", flush=True)
        yield {"patients": patients, "questions": questions, "p": p, "own": own, "percentile": percentile}


def simulate_accuracy(patients: int, questions: int, p: float, simulations: int) -> tuple[float, float]:
    """(coverage of medvlm's interval, of the percentile interval)."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(patients), questions).tolist()
    hits = np.zeros(2)
    for seed in range(simulations):
        scale = 1 / ALIKE - 1
        of_patient = rng.beta(p * scale, (1 - p) * scale, patients) if questions > 1 else np.full(patients, p)
        right = (rng.random(patients * questions) < np.repeat(of_patient, questions)).astype(float)
        drawn_R = resample(np.stack([right, np.ones_like(right)], axis=1), clusters, mean, RESAMPLES, seed)
        intervals = interval(drawn_R, right.mean(), patients, (0.0, 1.0)), np.quantile(drawn_R, [0.025, 0.975])
        hits += [low <= p <= high for low, high in intervals]
    own, percentile = np.round(hits / simulations, 3).tolist()
    return own, percentile


def measure_labels(simulations: int) -> Iterator[dict[str, Any]]:
    for patients, questions, ill, area in product((30, 100), (1, 4), SHARES_ILL, AREAS):
        cell = {"patients": patients, "questions": questions, "ill": ill, "area": area}
        found = simulate_labels(patients, questions, ill, area, simulations)
        words = ", ".join(f"{metric} {own:.3f} ({of_all:.3f})" for metric, (own, of_all) in found.items())
        print(f"{patients:4d} patients, {questions} questions, {ill:.0%} ill, AUROC {area}: {words}", flush=True)
        yield {**cell, **found}


def simulate_labels(
    patients: int, questions: int, ill: float, area: float, simulations: int
) -> dict[str, tuple[float, float]]:
    """Metric -> (coverage of medvlm's interval, of one for the number of all patients), of data sets with an
    interval."""
    rng = np.random.default_rng(0)
    measures = {measure.metric: measure for measure in find_task("labels").MEASURES}
    gap = float(norm.ppf(area)) * 2**0.5
    truths = find_truths(gap, ill)
    clusters = np.repeat(np.arange(patients), questions).tolist()
    settings: dict[str, Any] = {"dataset": "", "split": "", "resamples": RESAMPLES, "seed": 0}
    hits = {metric: np.zeros((2, 2)) for metric in truths}
    for seed in range(simulations):
        is_ill = np.repeat(rng.random(patients) < ill, questions).astype(float)
        of_patient = np.repeat(rng.normal(size=patients), questions) * (ALIKE if questions > 1 else 0) ** 0.5
        score = of_patient + rng.normal(size=len(is_ill)) * (1 - ALIKE if questions > 1 else 1) ** 0.5 + gap * is_ill
        told = (score >= gap / 2).astype(float)
        decided = np.stack([told * is_ill, told * (1 - is_ill), (1 - told) * is_ill], axis=1)
        for metric, truth in truths.items():
            columns = decided if metric == "f1" else np.stack([score, is_ill], axis=1)
            for at, measure in enumerate((measures[metric], replace(measures[metric], needs=None))):
                part = Part(range(len(is_ill)), {"answer": columns}, clusters)
                if not np.isnan(find_value(measure, [part])):
                    bounds = make_row(measure, metric, [part], {**settings, "seed": seed})["ci"]
                    hits[metric][at] += [bounds is not None and bounds[0] <= truth <= bounds[1], bounds is not None]
    return {metric: tuple(np.round(of[:, 0] / of[:, 1], 3).tolist()) for metric, of in hits.items()}


def find_truths(gap: float, ill: float) -> dict[str, float]:
    """The metrics of very many such scores, with the threshold of F1 halfway between the two means."""
    thresholds = np.linspace(-8, 8 + gap, 20001)
    found, alarms = norm.sf(thresholds - gap) * ill, norm.sf(thresholds) * (1 - ill)
    precision = found / (found + alarms)
    at = np.searchsorted(thresholds, gap / 2)
    return {
        "auroc": float(norm.cdf(gap / 2**0.5)),
        "ap": float(np.sum(precision[:-1] * -np.diff(found)) / ill),
        "sensitivity_at_0.9": float(norm.sf(norm.ppf(0.9) - gap)),
        "f1": float(2 * found[at] / (found[at] + alarms[at] + ill)),
    }


def measure_seeds(simulations: int) -> Iterator[dict[str, Any]]:
    for patients, seeds, deviation in product((30, 100), (2, 3, 5), DEVIATIONS):
        own, by_patients = simulate_seeds(patients, seeds, deviation, simulations)
        words = f"{own:.3f} ({by_patients:.3f})"
        print(f"{patients:4d} patients, {seeds} seeds, deviation {deviation}: {words}", flush=True)
        yield {"patients": patients, "seeds": seeds, "deviation": deviation, "own": own, "by_patients": by_patients}


def simulate_seeds(patients: int, seeds: int, deviation: float, simulations: int) -> tuple[float, float]:
    """(coverage of the interval of patients and seeds, of patients alone), of a difference of 0.1. Questions differ in
    how hard they are, equally for all seeds."""
    rng = np.random.default_rng(0)
    measure = Measure("accuracy", "vqa", average(lambda answer, truth: answer))
    settings: dict[str, Any] = {"resamples": RESAMPLES, "seed": 0}
    hits = np.zeros(2)
    for seed in range(simulations):
        ease_N = rng.normal(0, 0.2, patients)
        columns = {}
        for model, share in (("a", 0.6), ("b", 0.7)):
            for number in range(seeds):
                right_N = rng.random(patients) < np.clip(share + rng.normal(0, deviation) + ease_N, 0, 1)
                columns[f"{model}{number}"] = np.stack([right_N, np.ones(patients)], axis=1).astype(float)
        part = Part(range(patients), {"answer": columns["a0"], **columns}, range(patients))
        names = [[f"{model}{number}" for number in range(seeds)] for model in "ab"]
        gap = ModelGap(measure, [part], {**settings, "seed": seed}, *names)
        by_patients = interval(gap.difference_R, gap.value, patients, (-1.0, 1.0))
        hits += [low <= 0.1 <= high for low, high in (gap.find_bounds(), by_patients)]
    own, alone = np.round(hits / simulations, 3).tolist()
    return own, alone


def measure_ratios(simulations: int) -> Iterator[dict[str, Any]]:
    cells = product(("shift", "corruption"), (30, 100), (1, 4), ((0.8, 0.8), (0.8, 0.6), (0.5, 0.25), (0.95, 0.9)))
    for kind, patients, questions, (inside, outside) in cells:
        if kind == "corruption" and inside == outside:
            continue  # nothing changes
        own, percentile = simulate_ratio(kind, patients, questions, inside, outside, simulations)
        words = f"{kind}, {patients:4d} patients, {questions} questions, {inside} and {outside}"
        print(f"{words}: {own:.3f} ({percentile:.3f})", flush=True)
        cell = {"kind": kind, "patients": patients, "questions": questions, "in": inside, "out": outside}
        yield {**cell, "own": own, "percentile": percentile}


def simulate_ratio(
    kind: str, patients: int, questions: int, inside: float, outside: float, simulations: int
) -> tuple[float, float]:
    """(coverage of medvlm's interval, of the percentile interval), of data sets with an interval."""
    rng, scale = np.random.default_rng(0), 1 / ALIKE - 1
    clusters = np.repeat(np.arange(patients), questions).tolist()
    hits = np.zeros((2, 2))
    for seed in range(simulations):
        drawn = []
        for p in (inside, outside):
            of_patient = rng.beta(p * scale, (1 - p) * scale, patients) if questions > 1 else np.full(patients, p)
            drawn.append((rng.random(patients * questions) < np.repeat(of_patient, questions)).astype(float))
        own, one = drawn[0], np.ones(patients * questions)
        if kind == "corruption":
            spoilt = own * (rng.random(len(own)) < outside / inside)
            columns = np.stack([own, one, spoilt, one], axis=1)
        else:
            is_out = np.repeat(rng.random(patients) < 0.3, questions)
            columns = np.stack([own * ~is_out, ~is_out, drawn[1] * is_out, is_out], axis=1).astype(float)
        part = Part(range(len(own)), {"answer": columns}, clusters)
        settings: dict[str, Any] = {"dataset": "", "split": "", "resamples": RESAMPLES, "seed": seed}
        if columns[:, 0].sum() and columns[:, 3].sum():
            for at, make in enumerate((make_ratio_row, _make_percentile_row)):
                bounds = make("", "", "", part, settings)["ci"]
                hits[at] += [bounds is not None and bounds[0] <= outside / inside <= bounds[1], bounds is not None]
    own_share, percentile = np.round(hits[:, 0] / hits[:, 1], 3).tolist()
    return own_share, percentile


def _make_percentile_row(metric: str, group: str, label: str, part: Part, settings: dict[str, Any]) -> Any:
    return make_row(make_ratio(metric, group), metric, [part], settings)


if __name__ == "__main__":
    main()
