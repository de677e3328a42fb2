"""Several ranks save in the background while they train; any number of them, or none, reads what they saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medvlm.train import checkpoint
from medvlm.train.consolidate import consolidate
from tests.tiny_run import ROOT, run_ranks
from tests.train.sharded import whole


def ran(folder: Path, mode: str, ranks: int) -> list[dict[str, Any]]:
    run_ranks(ROOT / "tests" / "train" / "sharded.py", folder, mode, ranks=ranks)
    return [json.loads((folder / f"{mode}-{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("sharded")
    return folder, ran(folder, "save", 2)


def test_ranks_exchange_while_they_save(saved: tuple[Path, list[dict[str, Any]]]) -> None:
    """On one group for both, gloo breaks: connection reset by peer."""
    folder, ranks = saved
    assert all(rank["right"] and rank["exchanges"] for rank in ranks)
    assert checkpoint.list_saved_steps(folder / "stage") == [1, 2] and not any(
        checkpoint.find_damage(folder / "stage" / f"step-{n}") for n in (1, 2)
    )


def test_what_fails_on_one_rank_is_raised_on_all_in_the_same_words(saved: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, (first, second) = saved
    assert (
        first["failed"]
        == second["failed"]
        == "stage/step-3 was not saved: the disk is full or a quota is used up; the last good checkpoint is step-2."
        " Make room and run the same command again"
    )
    assert not list((folder / "stage").glob("step-3*"))


def test_each_rank_writes_its_own_shards_and_what_all_have_is_written_once(
    saved: tuple[Path, list[dict[str, Any]]],
) -> None:
    files = sorted((saved[0] / "stage" / "step-2" / "tensors").glob("*.safetensors"))
    names = [name for file in files for name in load_file(file)]
    assert len(files) == 2 and len(names) == len(set(names)) and names.count("model.plain") == 1
    assert {"model.rows", "model.rows@19,0", "model.columns", "model.columns@0,5"} <= set(names)


def test_one_process_reads_and_consolidates_what_two_saved(
    saved: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    found = checkpoint.read_weights(saved[0] / "stage" / "step-2")
    (file,) = consolidate(saved[0] / "stage" / "step-2", tmp_path, say=lambda _: None)
    for tensors in (found, load_file(file)):
        assert tensors.keys() == whole().keys() and all(torch.equal(tensors[name], t) for name, t in whole(2).items())


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_reads_what_two_saved(ranks: int, saved: tuple[Path, list[dict[str, Any]]]) -> None:
    for result in ran(saved[0], "load", ranks):
        assert result == {"same": True, "state": {"step": 2}, "rate": 0.5}
