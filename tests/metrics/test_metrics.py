from __future__ import annotations

import random
from statistics import correlation as pearson

import numpy as np
import pytest

from medvlm.answers.boxes import write
from medvlm.core.sample import Truth
from medvlm.metrics import boxes, count, retrieval
from medvlm.metrics.accuracy import correct, f1
from medvlm.metrics.bootstrap import value
from medvlm.rewards import boxes as boxes_reward

SIDE = Truth("choice", "left", choices=("left", "right"))


def four(label: str = "RBC") -> Truth:
    return Truth("count", "4", count=4, label=label)


def test_short_answers() -> None:
    assert correct("On the left.", SIDE) == 1
    assert correct("left, right", SIDE) == 0
    assert correct("The left lung", Truth("open", "left lung")) == 1
    assert correct("left", Truth("open", "left lung")) == 0
    assert f1("left", Truth("open", "left lung")) == pytest.approx(2 / 3)


def test_count_errors_and_what_an_unreadable_answer_costs() -> None:
    assert count.error("6", four()) == 2
    assert count.error("many", four()) == 4
    assert count.error("many", Truth("count", "0", count=0)) == 1
    assert count.exact("four", four()) == 1
    assert count.exact("many", Truth("count", "0", count=0)) == 0


def test_the_correlation_is_that_of_the_standard_library() -> None:
    rng = random.Random(0)
    true = [rng.randint(0, 30) for _ in range(200)]
    found = [max(0, n + rng.randint(-8, 8)) for n in true]
    items = np.array([count.moments(str(x), Truth("count", str(n), count=n)) for x, n in zip(found, true, strict=True)])
    assert value(items, count.correlation) == pytest.approx(pearson(found, true))


@pytest.mark.parametrize("constant", ["7", "999999999", "many"])
def test_a_constant_answer_has_no_correlation(constant: str) -> None:
    items = np.array([count.moments(constant, Truth("count", str(n), count=n)) for n in range(3000)])
    assert value(items, count.correlation) == 0


def test_boxes_by_hand() -> None:
    truth = Truth("boxes", "{boxes}", boxes=((0, 0, 10, 10), (20, 20, 30, 30)))
    answer = write([(0, 0, 10, 8), (20, 20, 30, 24), (50, 50, 60, 60), (70, 70, 80, 80)])
    assert boxes.mean_iou(answer, truth) == pytest.approx((0.8 + 0.4) / 4)
    assert boxes.hit_rate(answer, truth) == pytest.approx(1 / 4)
    assert boxes.hit_rate(write(truth.boxes), truth) == 1
    assert boxes.mean_iou("no idea", truth) == 0


def test_nothing_to_find() -> None:
    nothing = Truth("boxes", "{boxes}")
    assert boxes.mean_iou("none", nothing) == boxes.hit_rate("none", nothing) == 1
    for answer in ("[0, 0, 1, 1]", "no idea"):
        assert boxes.mean_iou(answer, nothing) == boxes.hit_rate(answer, nothing) == 0


def test_the_metric_and_the_reward_agree() -> None:
    for completion, truth, expected in boxes_reward.EXAMPLES:
        assert boxes.mean_iou(completion, truth) == pytest.approx(expected)


def test_ranks_by_hand() -> None:
    similarity = np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.1, 0.2, 0.0]])
    ranks = retrieval.ranks(similarity, np.eye(3, dtype=bool))
    assert ranks.tolist() == [0, 1, 2]
    assert retrieval.top(ranks, 1) == pytest.approx(1 / 3)
    assert retrieval.top(ranks, 2) == pytest.approx(2 / 3)


def test_any_right_candidate_will_do() -> None:
    is_target = np.array([[True, True, False]])
    assert retrieval.ranks(np.array([[0.1, 0.8, 0.5]]), is_target).tolist() == [0]
    assert retrieval.chance(is_target).tolist() == [pytest.approx(2 / 3)]


@pytest.mark.parametrize("same", [0.0, 1.0, float("nan")])
def test_a_collapsed_tower_finds_nothing(same: float) -> None:
    assert retrieval.ranks(np.full((4, 5), same), np.eye(4, 5, dtype=bool)).tolist() == [4] * 4


def test_random_similarities_find_as_much_as_chance() -> None:
    rng = np.random.default_rng(0)
    is_target = rng.integers(0, 8, 4000)[:, None] == np.arange(8)
    ranks = retrieval.ranks(rng.random((4000, 8)), is_target)
    assert retrieval.top(ranks, 1) == pytest.approx(retrieval.chance(is_target).mean(), abs=0.02)
