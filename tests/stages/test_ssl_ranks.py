"""Two processes that pretrain an encoder compute the same as one with the whole batch."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.run import RunFolder
from medvlm.train import checkpoint
from tests.labelled_run import write_run
from tests.ssl_run import recipe
from tests.stages.ssl_ranks import CASES, ENGINES, run, train_taught
from tests.tiny_run import ROOT, run_ranks, staged


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ssl-ranks")
    staged(write_run(made, recipe()), made / "runs", "look")
    return made


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, dict[str, Any]]]:
    run_ranks(ROOT / "tests" / "stages" / "ssl_ranks.py", folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_the_joint_batch(
    case: str, folder: Path, two: list[dict[str, dict[str, Any]]]
) -> None:
    one = run(folder, case)
    first, second = (rank[case] for rank in two)
    assert one["keys"] == first["keys"] + second["keys"]
    for rank in (first, second):
        assert rank["terms"] == pytest.approx(one["terms"], rel=1e-5)
        assert rank["gradients"].keys() == one["gradients"].keys()
        for name, gradient in one["gradients"].items():
            atol = 1e-5 * max(1.0, float(gradient.abs().max()))
            torch.testing.assert_close(rank["gradients"][name], gradient, rtol=1e-4, atol=atol)


def read_losses(run: RunFolder) -> list[float]:
    return [line["loss"] for line in map(json.loads, run.metrics.read_text().splitlines()) if "loss" in line]


@pytest.fixture(scope="module")
def alone(folder: Path) -> RunFolder:
    train_taught(folder, "alone", "single")
    return RunFolder(folder / "runs" / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_a_teacher_follows_on_two_ranks_as_on_one(name: str, folder: Path, alone: RunFolder) -> None:
    """Losses of six steps, and the weights, the centres and what the encoder is at the end."""
    if name.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed")
    run_ranks(ROOT / "tests" / "stages" / "ssl_ranks.py", folder, name)
    run = RunFolder(folder / "runs" / name)
    assert read_losses(run) == pytest.approx(read_losses(alone), rel=6e-2 if name.endswith("bf16") else 1e-5)
    found, expected = (checkpoint.read_weights(each.stage("look") / "step-6", "teacher") for each in (run, alone))
    assert found.keys() == expected.keys() and {"memory_whole", "memory_patches"} <= found.keys()
    start = checkpoint.read_weights(alone.stage("look") / "step-4", "teacher")
    moved = {key: float((expected[key] - start[key]).abs().max()) for key in expected}
    assert sum(each > 5e-4 for each in moved.values()) > 10, "a teacher that stays would pass"
    atol = 2e-2 if name.endswith("bf16") else 2e-5
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key].float(), tensor, rtol=0, atol=atol)
    own = checkpoint.read_weights(run.stage("look") / "step-6")
    assert all(torch.equal(own[key], found[key]) for key in own if key.startswith("encoders."))
