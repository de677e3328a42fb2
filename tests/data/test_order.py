"""Keyed permutations and numbers, and the mixture built on them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, permutations

import pytest

from medvlm.data.mixture import Mixture, assign_quotas
from medvlm.data.order import Blocks, Permutation, draw, draw_below


def order(n: int, *key: int | str) -> tuple[int, ...]:
    return tuple(Permutation(n, *key)[i] for i in range(n))


@pytest.mark.parametrize("n", [1, 2, 3, 17, 58, 1000, 4097])
def test_a_permutation_holds_every_place_once(n: int) -> None:
    assert sorted(order(n, 7, "cxr", 0)) == list(range(n))


def test_a_permutation_is_the_same_in_every_process_and_release() -> None:
    """Recorded once: if these numbers change, runs in progress would resume with other samples."""
    assert order(10, 7, "cxr", 0) == ORDER_OF_TEN
    assert Permutation(10**9, 7, "cxr", 0)[123456789] == PLACE_IN_A_BILLION
    assert draw_below(10**6, 7, "cxr") == BELOW_A_MILLION


def test_seed_source_and_epoch_each_change_the_order() -> None:
    orders = {order(58, *key) for key in [(7, "cxr", 0), (8, "cxr", 0), (7, "ct", 0), (7, "cxr", 1)]}
    assert len(orders) == 4


def test_all_orders_of_four_are_equally_likely() -> None:
    """24 orders, 6000 keys: 250 expected of each, standard deviation 15.5; a biased network misses orders
    altogether."""
    seen = Counter(order(4, seed, "cxr", 0) for seed in range(6000))
    assert set(seen) == set(permutations(range(4)))
    assert all(abs(count - 250) < 5 * 15.5 for count in seen.values())


def test_neighbours_are_torn_apart() -> None:
    steps = [abs(a - b) for a, b in pairwise(order(1000, 7, "cxr", 0))]
    assert sum(steps) / len(steps) == pytest.approx(1000 / 3, rel=0.1)  # the mean distance of two random places


def test_a_place_outside_is_refused() -> None:
    with pytest.raises(IndexError):
        Permutation(5, 0)[5]


@pytest.mark.parametrize(
    "n, block, window",
    [(1, 4, 2), (10, 3, 2), (100, 7, 3), (1000, 64, 4), (4097, 256, 16), (64, 64, 1), (63, 64, 2), (12, 1, 5)],
)
def test_blocks_hold_every_place_once(n: int, block: int, window: int) -> None:
    for epoch in range(3 if n < 1000 else 1):
        assert sorted(Blocks(n, block, window, 7, "cxr", epoch)[i] for i in range(n)) == list(range(n))


def test_blocks_stay_near_each_other_and_are_shuffled_within_and_among() -> None:
    n, block, window = 100_000, 100, 8
    order = [Blocks(n, block, window, 7, "cxr", 0)[i] for i in range(5000)]
    for start in range(
        0, 4800, 800
    ):  # within a window only `window` blocks, which each lie in at most two of the storage's
        assert len({place // block for place in order[start : start + 800]}) <= 2 * window
    assert len({place // block for place in order}) >= 6 * window  # and another window has others
    steps = [abs(a - b) for a, b in pairwise(order[:800])]
    assert sum(step == 1 for step in steps) < 20 and sum(steps) / len(steps) > n / 10
    other = [Blocks(n, block, window, 7, "cxr", 1)[i] for i in range(800)]
    assert len(set(other) & set(order[:800])) < 200


def test_blocks_of_a_billion_need_no_list() -> None:
    order = Blocks(10**9, 256, 16, 7, "cxr", 0)
    assert len({order[i] for i in range(5 * 10**8, 5 * 10**8 + 4096)}) == 4096
    with pytest.raises(IndexError):
        order[10**9]


def test_numbers_belong_to_their_key_alone() -> None:
    assert draw(7, "instruct", 12).random() == draw(7, "instruct", 12).random()
    keys: list[tuple[int | str, ...]] = [(7, "a", 12), (7, "a", 13), (8, "a", 12), (7, "a", "12"), (7, "a1", 2)]
    assert len({draw(*key).random() for key in keys}) == 5


def test_quotas_are_exact_for_simple_weights() -> None:
    assert assign_quotas({"vqa": 3, "reports": 1}) == {"reports": 1, "vqa": 3}
    assert assign_quotas({"a": 0.8, "b": 0.15, "c": 0.05}) == {"a": 16, "b": 3, "c": 1}
    assert assign_quotas({"a": 600, "b": 400}) == {"a": 3, "b": 2}
    assert assign_quotas({"alone": 0.37}) == {"alone": 1}


def test_other_weights_get_a_thousand_slots_and_nobody_is_left_out() -> None:
    assert assign_quotas({"a": 2**0.5, "b": 1.0}) == {"a": 586, "b": 414}  # 585.79 and 414.21
    assert assign_quotas({"big": 1e6, "rare": 1.0}) == {"big": 999, "rare": 1}


def test_every_cycle_holds_each_source_by_its_quota_in_another_arrangement() -> None:
    mixture = Mixture({"a": 5, "b": 2, "c": 1}, seed=7)
    cycles = [[mixture.at(cycle * 8 + slot)[0] for slot in range(8)] for cycle in range(50)]
    assert all(Counter(cycle) == {"a": 5, "b": 2, "c": 1} for cycle in cycles)
    assert len({tuple(cycle) for cycle in cycles}) > 40  # of 168 arrangements


def test_the_running_number_of_each_source_counts_up_without_gaps() -> None:
    mixture = Mixture({"a": 3, "b": 0.7}, seed=7)
    numbers: dict[str, list[int]] = {"a": [], "b": []}
    for position in range(500):
        source, n = mixture.at(position)
        numbers[source].append(n)
    assert all(found == list(range(len(found))) for found in numbers.values())


def test_the_order_of_the_recipes_lines_changes_nothing() -> None:
    one, other = Mixture({"a": 3, "b": 1}, 7), Mixture({"b": 1, "a": 3}, 7)
    assert [one.at(p) for p in range(40)] == [other.at(p) for p in range(40)]


def test_far_positions_cost_no_more_than_near_ones() -> None:
    source, n = Mixture({"a": 3, "b": 1}, 7).at(4 * 10**15)
    assert n == 10**15 * {"a": 3, "b": 1}[source]


ORDER_OF_TEN = (9, 5, 1, 2, 3, 8, 7, 0, 4, 6)
PLACE_IN_A_BILLION = 927340362
BELOW_A_MILLION = 996520
