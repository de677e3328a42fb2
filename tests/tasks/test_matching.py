from __future__ import annotations

import itertools
import random
import time

import pytest

from medvlm.core.sample import Box
from medvlm.tasks._matching import iou, match


def test_iou_by_hand() -> None:
    assert iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou((0, 0, 4, 4), (1, 1, 3, 3)) == pytest.approx(4 / 16)
    assert iou((0, 0, 2, 2), (2, 0, 4, 2)) == 0


@pytest.mark.parametrize("seed", range(60))
def test_the_matching_is_the_best_of_all_permutations(seed: int) -> None:
    rng = random.Random(seed)
    left, right = crowd(rng, rng.randint(0, 5)), crowd(rng, rng.randint(0, 5))
    pairs = match(left, right)
    assert len({i for i, _, _ in pairs}) == len({j for _, j, _ in pairs}) == len(pairs)
    assert all(overlap == iou(left[i], right[j]) > 0 for i, j, overlap in pairs)
    assert sum(overlap for _, _, overlap in pairs) == pytest.approx(best_of_all(left, right))


def test_taking_the_best_pair_first_would_be_worse() -> None:
    """The second box fits the first truth best (0.9), but it is the only one that fits the second truth well."""
    truths: list[Box] = [(0, 0, 10, 10), (5, 0, 15, 10)]
    found: list[Box] = [(0, 0, 8, 10), (1, 0, 10, 10)]
    assert sum(overlap for _, _, overlap in match(truths, found)) == pytest.approx(0.8 + 5 / 14)
    assert iou(truths[0], found[1]) + iou(truths[1], found[0]) < 0.8 + 5 / 14


def test_matching_is_symmetric() -> None:
    rng = random.Random(7)
    left, right = crowd(rng, 9), crowd(rng, 6)
    assert sum(p[2] for p in match(left, right)) == pytest.approx(sum(p[2] for p in match(right, left)))


@pytest.mark.parametrize("n", [30, 100])
def test_a_crowd_of_cells_is_matched_in_time(n: int) -> None:
    rng = random.Random(n)
    truths = crowd(rng, n, size=1000)
    found = [(x1 + rng.randint(0, 9), y1, x2 + rng.randint(0, 9), y2) for x1, y1, x2, y2 in truths]
    start = time.perf_counter()
    assert len(match(found, truths)) == n
    assert time.perf_counter() - start < 0.5


def crowd(rng: random.Random, n: int, size: int = 30) -> list[Box]:
    corners = [(rng.uniform(0, size), rng.uniform(0, size)) for _ in range(n)]
    return [(x, y, x + rng.uniform(10, 40), y + rng.uniform(10, 40)) for x, y in corners]


def best_of_all(left: list[Box], right: list[Box]) -> float:
    few, many = sorted((left, right), key=len)
    return max(
        sum(iou(a, b) for a, b in zip(few, order, strict=True)) for order in itertools.permutations(many, len(few))
    )
