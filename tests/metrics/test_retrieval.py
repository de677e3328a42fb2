from __future__ import annotations

import numpy as np
import pytest

from medvlm.metrics import retrieval


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
