from __future__ import annotations

import math
import random

import numpy as np
import pytest

from medvlm.core.measure import OfItems
from medvlm.metrics.bootstrap import interval, resample, value
from medvlm.metrics.rank import auroc

MEASURE = OfItems(auroc)


def items(scores: list[float], positive: list[int]) -> np.ndarray:
    return np.array([scores, positive], dtype=float).T


def of(scores: list[float], positive: list[int]) -> float:
    return value(items(scores, positive), MEASURE)


def count_pairs(scores: list[float], positive: list[int]) -> float:
    """Every pair of a positive and a negative item is looked at: 1 in the right order, 1/2 where they are equal."""
    pairs = [
        (s > t) + (s == t) / 2
        for s, p in zip(scores, positive, strict=True)
        if p
        for t, q in zip(scores, positive, strict=True)
        if not q
    ]
    return sum(pairs) / len(pairs)


def test_by_hand() -> None:
    """Hanley and McNeil's own kind of example: of 3 x 2 pairs four are in order, one is tied, one is wrong."""
    assert of([0.9, 0.8, 0.3, 0.5, 0.8], [1, 1, 1, 0, 0]) == pytest.approx((2 + 1.5 + 0) / 6)
    assert of([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]) == 1
    assert of([0.4, 0.3, 0.2, 0.1], [0, 0, 1, 1]) == 0
    assert of([7, 7, 7, 7, 7], [0, 1, 0, 1, 1]) == 0.5
    assert of([-math.inf, 0.0, math.inf], [0, 0, 1]) == 1


@pytest.mark.parametrize("levels", [2, 5, 10**6])
@pytest.mark.parametrize("seed", range(10))
def test_it_is_the_share_of_pairs_in_order(seed: int, levels: int) -> None:
    rng = random.Random(seed)
    positive = [1, 0, *(rng.randint(0, 1) for _ in range(60))]
    scores = [rng.randint(0, levels) + p * levels / 4 for p in positive]
    assert of(scores, positive) == pytest.approx(count_pairs(scores, positive), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_mann_whitney_statistic_of_scipy(seed: int) -> None:
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(seed)
    positive = rng.integers(0, 2, 200)
    scores = np.round(rng.normal(positive), 1)
    u = mannwhitneyu(scores[positive == 1], scores[positive == 0]).statistic
    pairs = positive.sum() * (1 - positive).sum()
    assert of(scores.tolist(), positive.tolist()) == pytest.approx(u / pairs)


def test_without_positives_or_negatives_it_is_not_defined() -> None:
    assert math.isnan(of([0.1, 0.2], [1, 1])) and math.isnan(of([0.1, 0.2], [0, 0]))


@pytest.mark.parametrize("clusters", ["items", "patients"])
def test_a_draw_equals_the_metric_of_the_repeated_items(clusters: str) -> None:
    """The draws are told by a metric that returns them; then every draw is made by hand."""
    rng = random.Random(3)
    positive = [rng.randint(0, 1) for _ in range(40)]
    scores = [round(rng.gauss(p, 1), 1) for p in positive]
    own = list(range(40)) if clusters == "items" else [rng.randint(0, 11) for _ in range(40)]
    drawn: list[np.ndarray] = []

    def note(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
        drawn.append(times_RN)
        return times_RN[:, 0]

    resample(items(scores, positive), own, OfItems(note), resamples=300, seed=5)
    metric_R = resample(items(scores, positive), own, MEASURE, resamples=300, seed=5)
    times_RN = np.concatenate(drawn)
    assert times_RN.shape == (300, 40) and len(np.unique(times_RN, axis=0)) > 250
    for times_N, metric in zip(times_RN.astype(int), metric_R, strict=True):
        assert len({(own[i], times_N[i]) for i in range(40)}) == len(set(own)), "items of a cluster come together"
        repeated = [i for i in range(40) for _ in range(times_N[i])]
        assert metric == pytest.approx(count_pairs([scores[i] for i in repeated], [positive[i] for i in repeated]))


def test_items_of_a_cluster_are_drawn_together_and_as_often_as_sums_are() -> None:
    """A mean as a function of the items has the same draws as the mean of sums, so that the two can be paired."""
    rng = np.random.default_rng(0)
    rows = np.stack([rng.random(200), np.ones(200)], axis=1)
    own = rng.integers(0, 30, 200).tolist()

    def mean_of_items(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
        return times_RN @ items_NK[:, 0] / times_RN.sum(axis=1)

    sums = resample(rows, own, lambda totals_RK: totals_RK[:, 0] / totals_RK[:, 1], resamples=500, seed=2)
    assert resample(rows, own, OfItems(mean_of_items), resamples=500, seed=2) == pytest.approx(sums)


def test_draws_in_blocks_are_the_draws_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    rows = np.stack([rng.random(50), rng.integers(0, 2, 50)], axis=1)
    at_once = resample(rows, range(50), MEASURE, resamples=200)
    monkeypatch.setattr("medvlm.metrics.bootstrap._DRAWS_AT_ONCE", 50 * 7)
    assert np.array_equal(resample(rows, range(50), MEASURE, resamples=200), at_once)


def test_the_interval_leaves_out_draws_that_do_not_define_the_metric() -> None:
    """One positive of four items: a draw lacks it with probability (3/4)^4."""
    metric_R = resample(items([0.1, 0.6, 0.3, 0.4], [0, 1, 0, 0]), range(4), MEASURE, resamples=4000)
    lacks = np.isnan(metric_R)
    assert lacks.mean() == pytest.approx((3 / 4) ** 4 + (1 / 4) ** 4, abs=0.03)
    defined = metric_R[~lacks]
    assert interval(metric_R, 1.0, 4, (0.0, 1.0)) == interval(defined, 1.0, 4, (0.0, 1.0)) != (1.0, 1.0)
    assert all(map(math.isnan, interval(np.full(10, np.nan), math.nan, 4)))


def test_the_interval_of_a_large_sample_is_that_of_hanley_and_mcneil() -> None:
    """For normal scores the standard error is known in closed form, within the few per cent of its approximation."""
    rng = np.random.default_rng(4)
    positive = np.repeat([0, 1], 300)
    scores = rng.normal(positive)
    area = of(scores.tolist(), positive.tolist())
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = math.sqrt((area * (1 - area) + 299 * (q1 - area**2) + 299 * (q2 - area**2)) / 300**2)
    drawn = resample(items(scores.tolist(), positive.tolist()), range(600), MEASURE, resamples=2000)
    low, high = interval(drawn, area, 600, (0.0, 1.0))
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.12)
