"""How often does the 95 % interval hold the truth?

    python benchmarks/coverage.py [--simulations 2000]

Answers are right with probability p; those of a patient are alike (beta-binomial, intra-class correlation 0.3). For
each number of patients, questions a patient and p it prints the share of simulated data sets whose interval holds p:
the interval of medvlm, and in brackets the plain percentile interval of the same draws. One JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
from itertools import product

import numpy as np

from medvlm.core.measure import mean
from medvlm.metrics.bootstrap import interval, resample

PATIENTS, QUESTIONS, SHARES = (10, 30, 100), (1, 4), (0.5, 0.8, 0.95, 0.99)
ALIKE = 0.3
"""Intra-class correlation of the answers of a patient."""
RESAMPLES = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    args = parser.parse_args()
    found = []
    for patients, questions, p in product(PATIENTS, QUESTIONS, SHARES):
        own, percentile = measure(patients, questions, p, args.simulations)
        found.append({"patients": patients, "questions": questions, "p": p, "own": own, "percentile": percentile})
        print(f"{patients:4d} patients, {questions} questions, p {p:.2f}: {own:.3f} ({percentile:.3f})", flush=True)
    print(json.dumps({"benchmark": "coverage", "simulations": args.simulations, "cells": found}))


def measure(patients: int, questions: int, p: float, simulations: int) -> tuple[float, float]:
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


if __name__ == "__main__":
    main()
