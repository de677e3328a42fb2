from __future__ import annotations

import random
from statistics import correlation as pearson
from statistics import mean

import numpy as np
import pytest

from medvlm.metrics.bootstrap import resample, value
from medvlm.tasks.count import (
    Truth,
    best_constant,
    correlation,
    error,
    is_exact,
    moments,
    parse,
    score,
    write,
)

FOUR = Truth(count=4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 or 3", None),
        ("3-4", None),
        ("3.5", None),
        ("-3", None),
        ("T2", None),
        ("3cm", None),
        ("many", None),
        ("", None),
        ("\u017fix", None),  # a long s: equal to an s only where case is ignored
        ("F\u0130VE", None),
        ("9" * 10, None),
        ("[1, 2, 3, 4]", None),
    ],
)
def test_a_count_is_one_whole_number(text: str, expected: int | None) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("n", [*range(25), 999_999_999])
def test_what_is_written_is_read(n: int) -> None:
    assert parse(write(Truth(count=n))) == n


def test_number_words_by_hand() -> None:
    by_hand = {"one": 1, "four": 4, "eleven": 11, "twelve": 12, "fifteen": 15, "eighteen": 18}
    assert {word: parse(word) for word in by_hand} == by_hand


def test_count_errors_and_what_an_unreadable_answer_costs() -> None:
    assert error("6", FOUR) == 2
    assert error("many", FOUR) == 4
    assert error("many", Truth(count=0)) == 1
    assert is_exact("four", FOUR) == 1
    assert is_exact("many", Truth(count=0)) == 0


def test_the_correlation_is_that_of_the_standard_library() -> None:
    rng = random.Random(0)
    true = [rng.randint(0, 30) for _ in range(200)]
    found = [max(0, n + rng.randint(-8, 8)) for n in true]
    items = np.array([moments(str(x), Truth(count=n)) for x, n in zip(found, true, strict=True)])
    assert value(items, correlation) == pytest.approx(pearson(found, true))


@pytest.mark.parametrize("size", [10, 10**4, 10**6, 10**7, 10**8, 999_999_900])
@pytest.mark.parametrize("spread", [1, 3, 50])
def test_the_correlation_of_large_counts_that_differ_little_is_right(size: int, spread: int) -> None:
    rng = random.Random(size + spread)
    true = [size + rng.randint(0, spread) for _ in range(300)]
    found = [n + rng.randint(0, spread) for n in true]
    items = np.array([moments(str(x), Truth(count=n)) for x, n in zip(found, true, strict=True)])
    expected = pearson([x - size for x in found], [n - size for n in true])
    assert value(items, correlation) == pytest.approx(expected, abs=1e-12)
    draws = resample(items, range(300), correlation, resamples=5)
    assert (draws > 0.3).all() and len(set(draws.tolist())) == 5


@pytest.mark.parametrize("constant", ["7", "999999999", "many"])
def test_a_constant_answer_has_no_correlation(constant: str) -> None:
    items = np.array([moments(constant, Truth(count=n)) for n in range(3000)])
    assert value(items, correlation) == 0


@pytest.mark.parametrize("n", [0, 1, 2, 7, 30])
def test_a_nearer_count_never_scores_less(n: int) -> None:
    truth = Truth(count=n)
    below = [score(str(found), truth) for found in range(n + 1)]
    above = [score(str(found), truth) for found in range(n, 3 * n + 3)]
    assert below == sorted(below)
    assert above == sorted(above, reverse=True)
    assert below[-1] == above[0] == 1


def test_no_other_count_has_a_smaller_mean_error() -> None:
    rng = random.Random(0)
    truths = [Truth(count=int(rng.expovariate(0.1))) for _ in range(101)]
    errors = {n: mean(error(str(n), truth) for truth in truths) for n in range(60)}
    assert errors[int(best_constant(truths))] == min(errors.values())
