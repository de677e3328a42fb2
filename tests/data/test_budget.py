"""Documents dealt into micro-batches: all of them, in order, whole, within the bound, for random lengths."""

from __future__ import annotations

import random

import pytest

from medvlm.data.budget import count_cells, partition
from medvlm.data.dialogue import TokenSequence
from medvlm.data.rows import collate


def documents(seed: int) -> list[TokenSequence]:
    drawn = random.Random(seed)
    return [
        TokenSequence(f"k{n}", [1] * drawn.randint(1, 60), [([2] * drawn.randint(1, 20), 0)], [])
        for n in range(drawn.randint(1, 24))
    ]


@pytest.mark.parametrize("seed", range(40))
def test_every_document_is_in_one_run_and_no_run_has_more_cells_than_allowed(seed: int) -> None:
    made, drawn = documents(seed), random.Random(seed + 1000)
    count, bound = drawn.randint(1, len(made)), drawn.choice([0, 80, 120, 400])
    runs = partition(made, count, bound)
    assert [d.key for run in runs for d in run] == [d.key for d in made] and len(runs) >= count and all(runs)
    if bound:
        assert all(collate(run, {}, 0).ids_BT.numel() == count_cells(run) <= bound for run in runs)
    else:
        assert len(runs) == count


def test_runs_are_about_equally_long() -> None:
    made = [TokenSequence(str(n), [1] * n, [], []) for n in (10, 10, 10, 30, 30, 30)]
    assert [[len(d) for d in run] for run in partition(made, 3, 0)] == [[10, 10, 10], [30, 30], [30]]
    runs = partition([TokenSequence(str(n), [1] * 10, [], []) for n in range(12)], 4, 0)
    assert [len(run) for run in runs] == [3, 3, 3, 3]
