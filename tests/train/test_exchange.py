"""What two ranks exchange within a step gives what one process computes, in as few collectives as stated."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medvlm.train.dealing import plan_moves
from medvlm.train.exchange import share_out
from tests.tiny_run import ROOT, run_ranks
from tests.train.exchange_ranks import TRAINED, gather, step_muon, train

Ranks = list[dict[str, Any]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    folder = tmp_path_factory.mktemp("exchange")
    run_ranks(ROOT / "tests" / "train" / "exchange_ranks.py", folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_terms_that_a_rank_lacks_are_summed_and_names_are_exchanged_only_if_they_are_new(two: Ranks) -> None:
    for first, second, third in (rank["terms"] for rank in two):
        names = {"a": (2.0, 4.0), "of rank 0": (3.0, 1.0), "of rank 1": (3.0, 1.0)}
        assert first[:2] == ([2.0, 1.0], names) and first[2] > 1
        assert second == ([2.0, 1.0], {"a": (4.0, 4.0)}, 1) and third == ([2.0, 1.0], {}, 1)


def test_rows_of_several_types_are_gathered_at_once_with_their_gradients(two: Ranks) -> None:
    values, grads = gather(0, 1, lambda *own: own)
    for number, rank in enumerate(two):
        stacked, own = rank["rows"]
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(stacked, values, strict=True))
        for mine, whole in zip(own, grads, strict=True):
            torch.testing.assert_close(mine, whole[2 * number : 2 * number + 2], rtol=1e-6, atol=1e-7)


def test_muon_shares_its_matrices_and_exchanges_the_updates_once(two: Ranks) -> None:
    *one, none = step_muon()
    assert int(none) == 0
    for *parameters, number in (rank["muon"] for rank in two):
        assert int(number) == 1
        for mine, whole in zip(parameters, one, strict=True):
            torch.testing.assert_close(mine, whole, rtol=1e-6, atol=1e-7)


def test_work_is_shared_out_by_its_cost() -> None:
    assert share_out([1, 5, 3, 1], 2) == [1, 0, 1, 1] and share_out([2, 2, 2], 1) == [0, 0, 0]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("case", TRAINED)
def test_slices_that_another_rank_computes_give_the_same_loss_and_gradients(case: str, kind: str, two: Ranks) -> None:
    one = train(case, "single", deals=False)
    for rank in (each[f"{kind} {case}"] for each in two):
        assert rank["loss"] == pytest.approx(one["loss"], rel=1e-6)
        assert rank["gradients"].keys() == one["gradients"].keys()
        for name, whole in one["gradients"].items():
            torch.testing.assert_close(rank["gradients"][name], whole, rtol=1e-5, atol=1e-6)
    times = 2 if case == "chunks" else 1  # chunks are computed again in the backward pass
    fewer = 5 if kind == "fsdp2" else 4  # with one row of zeros
    assert one["ran"] == {"film": 2, "volume": 9 * times}
    ran = [each[f"{kind} {case}"]["ran"] for each in two]
    assert ran == [{"film": 1, "volume": 5 * times}, {"film": 1, "volume": fewer * times}]


def test_without_dealing_one_rank_does_it_all(two: Ranks) -> None:
    """The control: the second rank runs one volume of zeros, for the sake of its gradients."""
    assert [each["not dealt"]["ran"] for each in two] == [{"film": 1, "volume": 9}, {"film": 1, "volume": 3}]


def test_ranks_with_fewer_chunks_of_slices_run_chunks_of_zeros_where_weights_are_exchanged(two: Ranks) -> None:
    """The first rank has five chunks of two slices or one, the second two, and three of one slice of zeros."""
    one = train("chunks", "single", deals=False)
    for rank in (each["not dealt, in chunks"] for each in two):
        assert rank["loss"] == pytest.approx(one["loss"], rel=1e-6)
        for name, whole in one["gradients"].items():
            torch.testing.assert_close(rank["gradients"][name], whole, rtol=1e-5, atol=1e-6)
    twice = 2  # computed again in the backward pass
    assert [each["not dealt, in chunks"]["ran"]["volume"] for each in two] == [9 * twice, (3 + 3) * twice]


def test_the_ranks_exchange_pixels_and_features_and_the_gradients_only_of_trained_towers(two: Ranks) -> None:
    """The counts of two towers, and of the uneven one its pixels, patches and pooled features. In the backward pass,
    DDP sends one bucket and which parameters were used."""
    assert [each["not dealt"]["exchanges"] for each in two] == [(0, 2)] * 2
    assert [each["ddp frozen"]["exchanges"] for each in two] == [(5, 2)] * 2
    assert [each["ddp trained"]["exchanges"] for each in two] == [(5, 3)] * 2


def test_ranks_without_any_rows_still_run_the_tower(two: Ranks) -> None:
    assert [each["none"] for each in two] == [[torch.Size([0, 3, 2]), torch.Size([0, 2])]] * 2


@pytest.mark.parametrize("counts", [[9, 0], [0, 0, 7], [5, 5, 4], [1, 0, 0, 0], [64, 1, 1, 3, 0, 0, 2, 2], [0, 0], [3]])
def test_moves_even_out_the_work_and_carry_no_row_twice(counts: list[int]) -> None:
    moves = plan_moves(counts)
    given, taken = [sum(row) for row in moves], [sum(column) for column in zip(*moves, strict=True)]
    left = [n - a + b for n, a, b in zip(counts, given, taken, strict=True)]
    assert sum(left) == sum(counts) and max(left) - min(left) <= 1
    assert all(a == 0 or b == 0 for a, b in zip(given, taken, strict=True)), "no rank both gives and takes"
    assert sum(given) == sum(max(0, n - most) for n, most in zip(counts, left, strict=True))
