"""Statistics of survival against definitions written out pair by pair, hand-computed cases, and repeated items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from medvlm.metrics.survival import auroc_by, brier_by, concordance, estimate_survival

BY = 5.0
ONCE = np.ones((1, 4))


def drawn(seed: int, count: int = 60, is_probability: bool = False) -> np.ndarray:
    """Columns (risk or probability, time, event, BY), with ties in all of them."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 9, count) / 8 if is_probability else rng.integers(-4, 5, count) / 2
    return np.stack([scores, rng.integers(1, 10, count), rng.random(count) < 0.6, np.full(count, BY)], 1).astype(float)


def concordance_by_pairs(items: np.ndarray) -> float:
    """As lifelines says when two times can be compared (utils/concordance.py), and what is right."""
    right = pairs = 0.0
    for i, (risk_a, time_a, event_a) in enumerate(items[:, :3]):
        for risk_b, time_b, event_b in items[i + 1 :, :3]:
            if time_a == time_b:
                comparable, a_first = event_a != event_b, bool(event_a)
            else:
                a_first = time_a < time_b
                comparable = bool(event_a if a_first else event_b)
            if comparable:
                pairs += 1
                right += 0.5 if risk_a == risk_b else float((risk_a > risk_b) == a_first)
    return right / pairs


def observed(items: np.ndarray, until: float, includes: bool) -> float:
    """Kaplan and Meier for last visits, before or at a time; events of a time are taken out first."""
    share = 1.0
    for moment in sorted(set(items[:, 1])):
        if moment < until or (includes and moment == until):
            left = ((items[:, 1] == moment) & (items[:, 2] == 0)).sum()
            there = (items[:, 1] >= moment).sum() - ((items[:, 1] == moment) & (items[:, 2] == 1)).sum()
            share *= 1 - left / there if there else 1
    return share


def auroc_by_pairs(items: np.ndarray) -> float:
    right = pairs = 0.0
    for risk_a, time_a, event_a, by in items:
        for risk_b, time_b, *_ in items:
            if event_a and time_a <= by < time_b:
                weight = 1 / observed(items, time_a, False)
                pairs += weight
                right += weight * (0.5 if risk_a == risk_b else risk_a > risk_b)
    return right / pairs


def brier_by_items(items: np.ndarray) -> float:
    total = 0.0
    for alive, time, event, by in items:
        if time <= by and event:
            total += alive**2 / observed(items, time, False)
        if time > by:
            total += (1 - alive) ** 2 / observed(items, by, True)
    return total / len(items)


CASES = [(concordance, concordance_by_pairs), (auroc_by, auroc_by_pairs), (brier_by, brier_by_items)]


@pytest.mark.parametrize(("ours", "theirs"), CASES, ids=["concordance", "auroc", "brier"])
def test_metrics_are_those_of_their_definitions(
    ours: Callable[..., np.ndarray], theirs: Callable[[np.ndarray], float]
) -> None:
    for seed in range(5):
        items = drawn(seed, is_probability=ours is brier_by)
        assert ours(items, np.ones((1, len(items))))[0] == pytest.approx(theirs(items), abs=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), CASES, ids=["concordance", "auroc", "brier"])
def test_a_draw_is_the_metric_of_repeated_items(
    ours: Callable[..., np.ndarray], theirs: Callable[[np.ndarray], float]
) -> None:
    items, rng = drawn(7, 30, ours is brier_by), np.random.default_rng(0)
    times_RN = rng.multinomial(30, np.full(30, 1 / 30), size=4).astype(float)
    expected = [theirs(items[np.repeat(np.arange(30), times_N.astype(int))]) for times_N in times_RN]
    assert ours(items, times_RN) == pytest.approx(expected, abs=1e-12)


def test_concordance_by_hand() -> None:
    """Deaths at 1 and 3, last visits at 2 and 4: four pairs can be compared. The risk of the second death is too low
    against the last visit at 4, and equal to none."""
    items = np.array([[3.0, 1, 1], [2.0, 2, 0], [0.0, 3, 1], [1.0, 4, 0]])
    assert concordance(items, ONCE)[0] == 3 / 4
    items[2, 0] = 1.0
    assert concordance(items, ONCE)[0] == 3.5 / 4
    assert np.isnan(concordance(items * [1, 1, 0], ONCE)[0])


def test_brier_by_hand() -> None:
    """By 5: a death at 2 (G = 1), a last visit at 3 (out of 3 who are left: G = 2/3 afterwards), a death at 4 (G = 2/3)
    and a survivor (G = 2/3)."""
    items = np.array([[0.5, 2, 1, BY], [0.5, 3, 0, BY], [0.2, 4, 1, BY], [0.6, 9, 0, BY]])
    assert brier_by(items, ONCE)[0] == pytest.approx((0.25 + 0.04 * 1.5 + 0.16 * 1.5) / 4)


def test_the_estimate_of_kaplan_and_meier_by_hand() -> None:
    """Deaths at 1 (of 4) and 3 (of 2)."""
    found = estimate_survival([1, 2, 3, 4], [True, False, True, False], [0.5, 1, 2.9, 3, 10])
    assert found == pytest.approx([1, 0.75, 0.75, 0.375, 0.375])


def test_blocks_of_pairs_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    items = drawn(3)
    whole = concordance(items, np.ones((1, 60)))
    monkeypatch.setattr("medvlm.metrics.survival._PAIRS_AT_ONCE", 130)
    assert concordance(items, np.ones((1, 60))) == whole
