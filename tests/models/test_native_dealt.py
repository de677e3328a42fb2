"""Pictures of ready models that another rank's tower computes give the losses and gradients of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.config import kinds
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.train.pieces import assign
from tests.models.native_ranks import train
from tests.tiny_run import ROOT, run_ranks

Ranks = list[dict[str, Any]]
CASES = ("ddp:qwen3_vl", "ddp:gemma3", "ddp:idefics3", "fsdp2:idefics3")
SLOW = tuple(f"fsdp2:{family}" for family in kinds("families") if f"fsdp2:{family}" not in CASES)


def two_ranks(folder: Path, cases: tuple[str, ...]) -> tuple[Path, Ranks]:
    for family in {case.split(":")[1] for case in cases}:
        save_tiny(family, folder / family)
    run_ranks(ROOT / "tests" / "models" / "native_ranks.py", folder, *cases)
    return folder, [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ranks]:
    return two_ranks(tmp_path_factory.mktemp("fast"), CASES)


def check_same(found: dict[str, Any], one: dict[str, Any]) -> None:
    assert found["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert found["gradients"].keys() == one["gradients"].keys()
    for name, whole in one["gradients"].items():
        atol = 1e-5 * max(1.0, whole.abs().max().item())
        torch.testing.assert_close(found["gradients"][name], whole, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_pictures_that_another_rank_computes_give_the_same_loss_and_gradients(
    case: str, fast: tuple[Path, Ranks]
) -> None:
    folder, ranks = fast
    one = train(folder / case.split(":")[1], "single", deals=False)
    for rank in ranks:
        check_same(rank[case], one)
    read = [rank[case]["read"] for rank in ranks]
    assert sum(read) == one["read"] and abs(read[0] - read[1]) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_pictures_of_every_family_are_dealt(case: str, tmp_path: Path) -> None:
    family = case.split(":")[1]
    if family == "smolvlm":
        pytest.importorskip("num2words", reason="its processor needs num2words")
    folder, ranks = two_ranks(tmp_path, (case,))
    one = train(folder / family, "single", deals=False)
    for rank in ranks:
        check_same(rank[case], one)
    assert sum(rank[case]["read"] for rank in ranks) == one["read"]
    assert max(rank[case]["read"] for rank in ranks) < one["read"]


def test_a_frozen_tower_is_dealt_too(fast: tuple[Path, Ranks]) -> None:
    folder, ranks = fast
    one = train(folder / "gemma3", "single", deals=False, trains=("language",))
    for rank in ranks:
        check_same(rank["frozen"], one)
    assert [rank["frozen"]["read"] for rank in ranks] == [3, 3]


def test_without_dealing_each_rank_reads_its_own(fast: tuple[Path, Ranks]) -> None:
    assert [rank["not dealt"]["read"] for rank in fast[1]] == [5, 1]


@pytest.mark.parametrize(
    ("costs", "loads"),
    [
        ([[1] * 9, []], [5, 4]),
        ([[], [], [1] * 7], [2, 2, 3]),
        ([[10], [1], []], [10, 1, 0]),  # a picture is not divided
        ([[4, 3, 3], [2]], [6, 6]),  # that of 4 moves
        ([[], []], [0, 0]),
        ([[5.0]], [5]),
    ],
)
def test_pieces_move_as_long_as_the_larger_load_becomes_smaller(costs: list[list[float]], loads: list[float]) -> None:
    takers = assign(costs)
    found = [0.0] * len(costs)
    for own, to in zip(costs, takers, strict=True):
        for cost, taker in zip(own, to, strict=True):
            found[taker] += cost
    assert found == loads
