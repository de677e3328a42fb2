"""How often do the 95 % intervals of further rows hold the truth?

    python benchmarks/coverage_rows.py [--simulations 400] [--of decisions] [--of means] [--of groups] [--of retrieval]

decisions: Brier score, calibration error, kappa and F1. Scores of the ill (30 %) and the well are normal with equal
variance, AUROC 0.85, and those of a patient are alike (0.3). Probabilities are calibrated, or overconfident by a factor
of 2 in the logit. Kappa and F1 are at a threshold that is chosen on as many validation patients; their truth is that of
the chosen threshold.

means: the mean rows over 5 classes that 5 to 40 % of the patients have, at AUROCs from 0.7 to 0.95. Scores of one image
are alike (0.3) between the classes. The truth is the mean over the classes for which the data set defines the metric.

groups: accuracy (0.8) and AUROC (0.85) of a subgroup that each patient is in with probability 1/3.

retrieval: R@1 of as many texts as patients, vectors of 16 numbers with noise. The truth is that of very many sets.

It prints the coverage, and JSON at the end of each. Data sets without an interval are counted apart.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from medvlm.core.config import component
from medvlm.core.measure import Measure
from medvlm.core.tasks import find_task
from medvlm.evaluate.rows import Part, find_value, make_row
from medvlm.metrics.calibration import BINS, spread_gap
from medvlm.metrics.rank import choose_threshold
from medvlm.metrics.retrieval import ranks

ALIKE, RESAMPLES = 0.3, 500
ILL, AREA, SHARPER = 0.3, 0.85, 2.0
SHARES, AREAS = (0.05, 0.1, 0.2, 0.3, 0.4), (0.7, 0.8, 0.85, 0.9, 0.95)
WIDTH, NOISE = 16, 0.35
MANY = 400_000
SETTINGS: dict[str, Any] = {"dataset": "", "split": "", "resamples": RESAMPLES, "seed": 0}
Drawn = tuple[Sequence[Part], float]
"""Parts of a row, and its truth."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measured = {"decisions": of_decisions, "means": of_means, "groups": of_groups, "retrieval": of_retrieval}
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--of", action="append", choices=tuple(measured))
    args = parser.parse_args()
    for what in args.of or measured:
        cells = []
        for cell, measure, draw in measured[what]():
            coverage, without = simulate(measure, draw, args.simulations)
            print(f"{cell}, {measure.metric}: {coverage:.3f} ({without} without an interval)", flush=True)
            cells.append({"cell": cell, "metric": measure.metric, "coverage": coverage, "without": without})
        print(json.dumps({"benchmark": f"coverage of {what}", "simulations": args.simulations, "cells": cells}))


def simulate(measure: Measure, draw: Callable[[np.random.Generator], Drawn], simulations: int) -> tuple[float, int]:
    """(share of the intervals that hold the truth, data sets without an interval)."""
    held = made = 0
    for seed in range(simulations):
        parts, truth = draw(np.random.default_rng(seed))
        if not parts or np.isnan(find_value(measure, parts)):
            continue
        bounds = make_row(measure, measure.metric, parts, {**SETTINGS, "seed": seed})["ci"]
        made += bounds is not None
        held += bounds is not None and bounds[0] - 1e-6 <= truth <= bounds[1] + 1e-6
    return round(held / max(1, made), 3), simulations - made


def find_measure(metric: str, task: str = "labels") -> Measure:
    return next(measure for measure in find_task(task).MEASURES if measure.metric == metric)


def draw_scores(
    rng: np.random.Generator, patients: int, questions: int, shares: Sequence[float], areas: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """(scores [N, classes], whether ill [N, classes], patient of each of the N questions). With several questions the
    scores of a patient are alike, and with several classes those of a question."""
    clusters = np.repeat(np.arange(patients), questions)
    is_ill = (rng.random((patients, len(shares))) < shares)[clusters]
    gap = norm.ppf(areas) * 2**0.5
    of_patient = ALIKE if questions > 1 else 0.0
    of_question = ALIKE if len(shares) > 1 else 0.0
    noise = (
        of_patient**0.5 * rng.normal(size=(patients, len(shares)))[clusters]
        + of_question**0.5 * rng.normal(size=(len(clusters), 1))
        + (1 - of_patient - of_question) ** 0.5 * rng.normal(size=is_ill.shape)
    )
    return noise + gap * is_ill, is_ill.astype(float), clusters.tolist()


# --- decisions and probabilities --------------------------------------------------------------------------


def of_decisions() -> Iterator[tuple[str, Measure, Callable[[np.random.Generator], Drawn]]]:
    for patients, questions, sharper in product((30, 100), (1, 4), (1.0, SHARPER)):
        for metric in ("brier", "ece", *(("kappa", "f1") if sharper == 1 else ())):
            kind = "" if metric in ("kappa", "f1") else ", calibrated" if sharper == 1 else ", overconfident"
            cell = f"{patients} patients, {questions} questions{kind}"
            yield cell, find_measure(metric), partial(draw_decisions, patients, questions, sharper, metric)


def draw_decisions(patients: int, questions: int, sharper: float, metric: str, rng: np.random.Generator) -> Drawn:
    scores, is_ill, clusters = draw_scores(rng, patients, questions, [ILL], [AREA])
    score, ill = scores[:, 0], is_ill[:, 0]
    if metric in ("brier", "ece"):
        columns = to_probability_columns(metric, to_probability(score, sharper), ill)
        truth = find_probability_truth(metric, sharper)
    else:
        others, sick, _ = draw_scores(rng, patients, questions, [ILL], [AREA])
        threshold = choose_threshold(np.stack([others[:, 0], sick[:, 0]], axis=1))
        if threshold is None:
            return (), 0.0
        told = (score >= threshold).astype(float)
        columns = np.stack([ill, told], axis=1)
        if metric == "f1":
            columns = np.stack([told * ill, told * (1 - ill), (1 - told) * ill], axis=1)
        truth = find_decision_truth(metric, threshold)
    return [Part(range(len(ill)), {"answer": columns}, clusters)], truth


def to_probability(score: np.ndarray, sharper: float) -> np.ndarray:
    gap = float(norm.ppf(AREA)) * 2**0.5
    found: np.ndarray = expit(sharper * (gap * score - gap**2 / 2 + np.log(ILL / (1 - ILL))))
    return found


def to_probability_columns(metric: str, probability: np.ndarray, ill: np.ndarray) -> np.ndarray:
    if metric == "brier":
        return np.stack([(probability - ill) ** 2, np.ones_like(ill)], axis=1)
    return np.array([spread_gap(p, label) for p, label in zip(probability, ill, strict=True)])


@cache
def find_probability_truth(metric: str, sharper: float) -> float:
    score, *_ = draw_scores(np.random.default_rng(1), MANY, 1, [ILL], [AREA])
    probability, chance = to_probability(score[:, 0], sharper), to_probability(score[:, 0], 1.0)
    if metric == "brier":
        return float(((probability - chance) ** 2 + chance * (1 - chance)).mean())
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probability)
    gaps = np.bincount(bins, probability - chance, BINS)  # without the noise of the labels
    return float(np.abs(gaps).sum() / len(probability))


def find_decision_truth(metric: str, threshold: float) -> float:
    gap = float(norm.ppf(AREA)) * 2**0.5
    found, alarms = norm.sf(threshold - gap) * ILL, norm.sf(threshold) * (1 - ILL)
    if metric == "f1":
        return float(2 * found / (found + alarms + ILL))
    told = found + alarms
    agreed = found + (1 - ILL - alarms)
    expected = told * ILL + (1 - told) * (1 - ILL)
    return float((agreed - expected) / (1 - expected))


# --- means over classes, and subgroups --------------------------------------------------------------------


def of_means() -> Iterator[tuple[str, Measure, Callable[[np.random.Generator], Drawn]]]:
    for patients, questions in product((30, 100), (1, 4)):
        for metric in ("auroc", "ap", "f1"):
            yield (
                f"{patients} patients, {questions} questions",
                find_measure(metric),
                partial(draw_means, patients, questions, metric),
            )


def draw_means(patients: int, questions: int, metric: str, rng: np.random.Generator) -> Drawn:
    """Thresholds of F1 are halfway between the two means."""
    scores, is_ill, clusters = draw_scores(rng, patients, questions, SHARES, AREAS)
    parts, truths = [], []
    for n, (share, area) in enumerate(zip(SHARES, AREAS, strict=True)):
        gap, ill = float(norm.ppf(area)) * 2**0.5, is_ill[:, n]
        told = (scores[:, n] >= gap / 2).astype(float)
        columns = np.stack([scores[:, n], ill], axis=1)
        if metric == "f1":
            columns = np.stack([told * ill, told * (1 - ill), (1 - told) * ill], axis=1)
        part = Part(range(len(ill)), {"answer": columns}, clusters)
        parts.append(part)
        if not np.isnan(find_value(find_measure(metric), [part])):
            truths.append(find_ranking_truth(metric, share, gap))
    return parts, float(np.mean(truths)) if truths else 0.0


@cache
def find_ranking_truth(metric: str, ill: float, gap: float) -> float:
    thresholds = np.linspace(-8, 8 + gap, 4001)
    found, alarms = norm.sf(thresholds - gap) * ill, norm.sf(thresholds) * (1 - ill)
    if metric == "auroc":
        return float(norm.cdf(gap / 2**0.5))
    if metric == "ap":
        return float(np.sum((found / (found + alarms))[:-1] * -np.diff(found)) / ill)
    at = np.searchsorted(thresholds, gap / 2)
    return float(2 * found[at] / (found[at] + alarms[at] + ill))


def of_groups() -> Iterator[tuple[str, Measure, Callable[[np.random.Generator], Drawn]]]:
    for patients, questions in product((30, 100), (1, 4)):
        for metric, task in (("accuracy", "choice"), ("auroc", "labels")):
            yield (
                f"{patients} patients, {questions} questions",
                find_measure(metric, task),
                partial(draw_group, patients, questions, metric),
            )


def draw_group(patients: int, questions: int, metric: str, rng: np.random.Generator) -> Drawn:
    scores, is_ill, clusters = draw_scores(rng, patients, questions, [ILL], [AREA])
    columns = np.stack([scores[:, 0], is_ill[:, 0]], axis=1)
    truth = AREA
    if metric == "accuracy":
        right = scores[:, 0] - norm.ppf(AREA) * 2**0.5 * is_ill[:, 0] < norm.ppf(0.8)
        columns, truth = np.stack([right.astype(float), np.ones(len(right))], axis=1), 0.8
    kept = set(np.flatnonzero((rng.random(patients) < 1 / 3)[clusters]).tolist())
    part = Part(range(len(columns)), {"answer": columns}, clusters).keep(kept)
    return [part] if part.numbers else (), truth


# --- retrieval --------------------------------------------------------------------------------------------


def of_retrieval() -> Iterator[tuple[str, Measure, Callable[[np.random.Generator], Drawn]]]:
    protocol = component("evaluate.protocols", "retrieval")
    for patients, images in product((30, 100), (1, 4)):
        truth = float(np.mean([draw_hits(np.random.default_rng([9, n]), patients, images).mean() for n in range(2000)]))
        yield (
            f"{patients} patients, {images} images, R@1 {truth:.2f}",
            protocol.TOP1["image_to_text"],
            partial(draw_retrieval, patients, images, truth),
        )


def draw_hits(rng: np.random.Generator, patients: int, images: int) -> np.ndarray:
    texts = rng.normal(size=(patients, WIDTH)) / WIDTH**0.5
    of_patient = np.repeat(np.arange(patients), images)
    noise = (ALIKE**0.5 * rng.normal(size=(patients, WIDTH))[of_patient]) + (1 - ALIKE) ** 0.5 * rng.normal(
        size=(len(of_patient), WIDTH)
    )
    similar = (texts[of_patient] + NOISE * noise) @ texts.T
    return ranks(similar, of_patient[:, None] == np.arange(patients)) == 0


def draw_retrieval(patients: int, images: int, truth: float, rng: np.random.Generator) -> Drawn:
    hits = draw_hits(rng, patients, images).astype(float)
    columns = np.stack([hits, np.ones_like(hits)], axis=1)
    return [Part(range(len(hits)), {"answer": columns}, np.repeat(np.arange(patients), images).tolist())], truth


if __name__ == "__main__":
    main()
