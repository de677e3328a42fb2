"""Samples spread over steps, ranks and rows: nothing is lost, budgets hold, and there is less padding and waiting."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice
from typing import Any

import pytest

from medvlm.data.budget import count_cells
from medvlm.data.dialogue import TokenSequence
from medvlm.data.row_plan import Load, RowPlanner, Rows, balance_steps, fill_rows, find_load, split_rows
from medvlm.data.rows import assign_rows

WORLD, BATCH, STEPS = 4, 32, 16


def made(count: int, seed: int = 0) -> list[Load]:
    """Short answers about one image, and, for a quarter of them, reports about up to four; 256 tokens an image."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        is_report = draw.random() < 0.25
        images = draw.choices([1, 2, 4], [0.8, 0.12, 0.08])[0] if is_report else 1
        text = draw.randint(120, 500) if is_report else draw.randint(25, 60)
        found.append(Load(text + 256 * images, images, 3 * 448 * 448 * images))
    return found


def sums(loads: Sequence[Load], groups: Sequence[Sequence[int]], what: int = 0) -> list[int]:
    return [sum(loads[i][what] for i in group) for group in groups]


def test_steps_have_equally_many_samples_and_about_equally_many_tokens_and_pixels() -> None:
    loads = made(BATCH * STEPS)
    steps = balance_steps(loads, STEPS)
    assert sorted(i for step in steps for i in step) == list(range(BATCH * STEPS))
    assert {len(step) for step in steps} == {BATCH}
    for what in (0, 2):
        planned = sums(loads, steps, what)
        consecutive = sums(loads, [range(s * BATCH, (s + 1) * BATCH) for s in range(STEPS)], what)
        assert max(planned) / min(planned) < 1.07 and max(consecutive) / min(consecutive) > 1.15


@pytest.mark.parametrize("rows", [Rows(tokens=4096), Rows(tokens=4096, images=6), Rows(tokens=2048)])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_rows_hold_every_sample_once_within_the_budget(rows: Rows, world: int) -> None:
    for seed in range(20):
        loads = made(BATCH, seed)
        filled = fill_rows(loads, rows, world=world)
        assert sorted(i for row in filled for i in row) == list(range(BATCH)) and all(filled)
        assert len(filled) % world == 0
        assert all(n <= rows.tokens for n in sums(loads, filled))
        assert not rows.images or all(n <= rows.images for n in sums(loads, filled, 1))
        least = max(
            sum(load.tokens for load in loads) / rows.tokens, rows.images and sum(loads_images(loads)) / rows.images
        )
        assert len(filled) / world <= least / world + 1.5


def loads_images(loads: Sequence[Load]) -> list[int]:
    return [load.images for load in loads]


def test_a_sample_beyond_the_budget_is_alone_in_its_row() -> None:
    loads = [Load(100, 1, 1)] * 5 + [Load(100, 40, 40)]
    filled = fill_rows(loads, Rows(tokens=1000, images=4))
    assert [5] in filled and sorted(map(len, filled)) == [1, 2, 3]


def test_the_cap_on_images_goes_before_even_loads() -> None:
    """By their loads alone, all small images would be in the row without the large one."""
    loads = [Load(10, 1, 1000), *[Load(10, 1, 10)] * 6]
    assert sorted(sums(loads, fill_rows(loads, Rows(tokens=1000, images=4), count=2), 1)) == [3, 4]
    assert sorted(sums(loads, fill_rows(loads, Rows(tokens=1000), count=2), 1)) == [1, 6]


def test_rows_are_never_more_than_samples() -> None:
    assert sorted(fill_rows([Load(90, 0, 0)] * 4, Rows(tokens=100), world=4)) == [[0], [1], [2], [3]]
    assert sorted(fill_rows([Load(90, 0, 0)] * 4, Rows(tokens=100), count=9)) == [[0], [1], [2], [3]]


def test_ranks_are_loaded_evenly_where_consecutive_shares_are_not() -> None:
    worst: dict[str, list[float]] = {"planned": [], "consecutive": []}
    for seed in range(20):
        loads = made(BATCH, seed)
        rows = fill_rows(loads, Rows(tokens=4096), world=WORLD)
        planned = [[i for row in rows[rank::WORLD] for i in row] for rank in range(WORLD)]
        share = BATCH // WORLD
        ranks = {"planned": planned, "consecutive": [list(range(r * share, (r + 1) * share)) for r in range(WORLD)]}
        for how, each in ranks.items():
            worst[how] += [max(n) * WORLD / sum(n) for n in (sums(loads, each, 0), sums(loads, each, 2))]
    means = {how: sum(each) / len(each) for how, each in worst.items()}
    assert means["planned"] < 1.06 and means["consecutive"] > 1.15, means


def document(load: Load) -> TokenSequence:
    return TokenSequence("k", [1] * load.tokens, [], [])


def test_the_share_of_padding_falls() -> None:
    """Cells, as collate() makes them: before, each rank split its share into two micro-batches, and the longest sample
    was the width of their rows."""
    before = after = tokens = 0
    for seed in range(20):
        loads = made(BATCH, seed)
        documents = [document(load) for load in loads]
        tokens += sum(map(len, documents))
        before += sum(count_cells(documents[at : at + 4]) for at in range(0, BATCH, 4))
        for row in fill_rows(loads, Rows(tokens=4096), world=WORLD):
            members = [documents[i] for i in row]
            (together,) = assign_rows(members, width=4096)
            assert len(together) == len(members)
            after += sum(map(len, members))
    assert after == tokens, "a row is as wide as its samples"
    assert 0.12 < 1 - tokens / before < 0.25


class Positions:
    """A stream whose sample at a position is the position, from one of two sources."""

    stage = "tell"

    def used(self, position: int, further: Sequence[int] = ()) -> Any:
        taken = [*range(position), *further]
        assert len(set(taken)) == len(taken)
        return {source: sum(p % 3 == number for p in taken) for number, source in enumerate(("a", "b", "c"))}


def planners(
    world: int, total: int, rows: Rows, loads: Sequence[Load], measured: list[int] | None = None
) -> list[RowPlanner]:
    """Planners of all ranks, whose sums are those of ranks that measure their own parts."""
    found: list[RowPlanner] = []

    def measure(position: int) -> Load:
        assert position < total, "beyond the end of the stage"
        if measured is not None:
            measured.append(position)
        return loads[position]

    def sum_of(number: int) -> list[float]:
        return [sum(each) for each in zip(*(planner._measure_own(number) for planner in found), strict=True)]

    for rank in range(world):
        stream: Any = Positions()
        planner = RowPlanner(stream, rows, 8, total, rank, world, measure, list)
        window = planner._plan_window
        planner._plan_window = lambda number, _, window=window: window(number, sum_of(number))  # type: ignore
        found.append(planner)
    return found


def steps_of(found: list[RowPlanner], start: int, count: int | None = None) -> list[list[int]]:
    """The positions of each step, over all ranks."""
    iterators = [islice(planner.plan(start), count) for planner in found]
    steps = []
    for parts in zip(*iterators, strict=True):
        assert len({first for first, _ in parts}) == 1
        steps.append(sorted(p for _, own in parts for p in own))
    return steps


ROWS = Rows(tokens=4096, ahead=4)


def test_a_step_has_the_same_samples_on_any_number_of_ranks_and_after_a_restart_anywhere() -> None:
    loads = made(8 * 11)
    whole = steps_of(planners(1, 8 * 11, ROWS, loads), 0)
    assert len(whole) == 11 and sorted(p for step in whole for p in step) == list(range(88)), "every sample once"
    assert all(len(step) == 8 for step in whole)
    for window in range(0, 11, 4):  # a window holds its own positions, and the last one ends with the stage
        assert sorted(p for step in whole[window : window + 4] for p in step) == list(
            range(window * 8, min(88, window * 8 + 32))
        )
    assert whole[:4] != [list(range(s, s + 8)) for s in range(0, 32, 8)], "they are spread"
    for world in (2, 4, 8):
        for start in range(11):
            assert steps_of(planners(world, 88, ROWS, loads), 8 * start) == whole[start:]


def test_each_rank_measures_its_part_only() -> None:
    measured: list[int] = []
    planner = planners(4, 64, ROWS, made(64), measured)[1]
    planner._measure_own(1)
    assert measured == list(range(33, 64, 4))


def test_what_is_used_of_a_source_is_exact_within_a_window() -> None:
    (planner,) = planners(1, 88, ROWS, made(88))
    taken: list[int] = []
    for first, own in planner.plan(0):
        assert planner.at(first).own == own and planner.at(first).uneven == (1.0, 1.0)
        taken += own
        expected: Any = {source: sum(p % 3 == number for p in taken) for number, source in enumerate(("a", "b", "c"))}
        assert planner.used(first + 8) == expected


def test_with_one_step_ahead_every_step_has_its_own_positions() -> None:
    loads = made(40)
    assert steps_of(planners(2, 40, Rows(tokens=4096, ahead=1), loads), 0) == [
        list(range(s, s + 8)) for s in range(0, 40, 8)
    ]


def test_a_load_counts_pictures_and_what_encoders_read() -> None:
    torch = pytest.importorskip("torch")
    pixels = torch.zeros(3, 4, 4)
    assert find_load(TokenSequence("k", [1] * 5, [([2, 3], 0)], [("film", pixels), ("film", pixels)])) == (7, 2, 96)


def test_rows_are_split_until_there_are_as_many_and_then_empty_ones_follow() -> None:
    filled = [[0, 4], [1, 2, 3, 5], [6]]
    for count in range(1, 10):
        rows = split_rows(filled, count)
        assert len(rows) == max(3, count) and sorted(i for row in rows for i in row) == list(range(7))
        assert all(rows[: min(len(rows), 7)]) and not any(rows[7:])
    assert split_rows(filled, 2) == filled
