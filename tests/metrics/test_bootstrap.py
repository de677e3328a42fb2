from __future__ import annotations

import math
import time
from statistics import NormalDist

import numpy as np
import pytest

from medvlm.core.measure import mean
from medvlm.metrics.bootstrap import interval, resample, value


def columns(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones(len(values))], axis=1)


def test_the_value_is_the_mean() -> None:
    assert value(columns(np.array([0.0, 1.0, 1.0, 1.0])), mean) == 0.75


@pytest.mark.parametrize(("n", "right"), [(50, 40), (200, 90), (400, 380)])
def test_accuracy_s_interval_is_the_binomial_one(n: int, right: int) -> None:
    """Each resample of independent 0/1 items is Binomial(n, right / n), whose quantiles are known exactly."""
    low, high = interval(resample(columns(np.arange(n) < right), range(n), mean, resamples=20_000))
    assert low == pytest.approx(binomial_quantile(n, right / n, 0.025) / n, abs=1.01 / n)
    assert high == pytest.approx(binomial_quantile(n, right / n, 0.975) / n, abs=1.01 / n)


def test_a_mean_error_s_interval_is_the_normal_one() -> None:
    """For many independent items the mean is normal with the standard error s / sqrt(n)."""
    errors = np.random.default_rng(1).exponential(3, size=2000)
    low, high = interval(resample(columns(errors), range(2000), mean, resamples=10_000))
    half = NormalDist().inv_cdf(0.975) * errors.std() / math.sqrt(2000)
    assert low == pytest.approx(errors.mean() - half, abs=0.06 * half)
    assert high == pytest.approx(errors.mean() + half, abs=0.06 * half)


def test_items_that_are_copies_of_each_other_count_as_one() -> None:
    """Ten equal questions about each of 100 images tell as much as 100 questions: with clusters the interval stays."""
    image_is_right = np.random.default_rng(2).random(100) < 0.6
    of_images = interval(resample(columns(image_is_right), range(100), mean, resamples=4000))
    copied, images = columns(np.repeat(image_is_right, 10)), np.repeat(np.arange(100), 10).tolist()
    assert interval(resample(copied, images, mean, resamples=4000)) == pytest.approx(of_images)
    too_narrow = interval(resample(copied, range(1000), mean, resamples=4000))
    assert too_narrow[1] - too_narrow[0] < 0.5 * (of_images[1] - of_images[0])


def test_clusters_of_different_sizes_weigh_by_their_items() -> None:
    """Two clusters, one of 9 wrong items and one of a single right one: the draws give 0, 1/10 or 1."""
    metric = resample(columns(np.array([0] * 9 + [1])), ["a"] * 9 + ["b"], mean, resamples=4000)
    shares = {round(float(v), 6): float((metric == v).mean()) for v in np.unique(metric)}
    assert shares == pytest.approx({0.0: 0.25, 0.1: 0.5, 1.0: 0.25}, abs=0.03)


def test_the_paired_difference_of_two_answerers_is_narrower_than_their_intervals_suggest() -> None:
    """b is right where a is, and on one item in ten more: the difference is Binomial(n, 0.1) whatever a's accuracy
    varies."""
    a = np.arange(500) % 2 == 0
    b = a | (np.arange(500) % 10 == 1)
    difference = resample(columns(b), range(500), mean, 4000) - resample(columns(a), range(500), mean, 4000)
    low, high = interval(difference)
    assert low == pytest.approx(binomial_quantile(500, 0.1, 0.025) / 500, abs=0.005)
    assert high == pytest.approx(binomial_quantile(500, 0.1, 0.975) / 500, abs=0.005)


def test_the_seed_decides() -> None:
    items = columns(np.random.default_rng(3).random(300))
    assert np.array_equal(resample(items, range(300), mean, seed=5), resample(items, range(300), mean, seed=5))
    assert not np.array_equal(resample(items, range(300), mean, seed=5), resample(items, range(300), mean, seed=6))


def test_one_item_has_an_interval_without_width() -> None:
    assert interval(resample(columns(np.array([0.3])), ["p"], mean)) == pytest.approx((0.3, 0.3))


def test_a_thousand_resamples_of_five_thousand_items_take_less_than_a_second() -> None:
    items = columns(np.random.default_rng(4).random(5000))
    start = time.process_time()
    metric = resample(items, range(5000), mean, resamples=1000)
    assert time.process_time() - start < 1
    assert len(metric) == 1000


def binomial_quantile(n: int, p: float, q: float) -> int:
    below = 0.0
    for k in range(n + 1):
        below += math.comb(n, k) * p**k * (1 - p) ** (n - k)
        if below >= q:
            return k
    return n
