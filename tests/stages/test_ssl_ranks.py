"""Two processes that pretrain an encoder compute the same as one with the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.labelled_run import write_run
from tests.ssl_run import recipe
from tests.stages.ssl_ranks import CASES, run
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
