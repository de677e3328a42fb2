"""Two processes that train decoders compute the same as one, although their labels are distributed unevenly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.labelled_run import ENCODER, FIT, OUTCOME_DECODERS, OUTCOME_LOSSES, OUTCOMES, recipe, write_run
from tests.stages.two_heads import CASES
from tests.tiny_run import ROOT, run_ranks, staged
from tests.train.two_ranks import first_step


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("heads")
    write_run(made, recipe())
    model = {"encoders": {"film": ENCODER}, "decoders": OUTCOME_DECODERS}
    write_run(made / "outcomes", recipe(model=model, stages=[{**FIT, "losses": OUTCOME_LOSSES}]), OUTCOMES)
    return made


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, dict[str, Any]]]:
    """The results of the two ranks. One process packs the archives first."""
    for place in (folder, folder / "outcomes"):
        staged(place / "recipe.yaml", place / "runs", "fit")
    run_ranks(ROOT / "tests" / "stages" / "two_heads.py", folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_of_a_step_are_those_of_one_process(
    case: str, folder: Path, two: list[dict[str, dict[str, Any]]]
) -> None:
    """Also of losses that compare the samples of a batch with each other, which are the samples of both ranks."""
    place = folder / CASES[case][0]
    one = first_step(place / "recipe.yaml", place / "runs", "fit")
    first, second = (rank[case] for rank in two)
    assert one["keys"] == first["keys"] + second["keys"]
    losses = OUTCOME_LOSSES if CASES[case][0] else FIT["losses"]
    assert {name.partition(".")[0] for name in one["terms"]} >= losses.keys() and all(one["terms"].values())
    for rank in (first, second):
        assert rank["terms"] == pytest.approx(one["terms"], rel=1e-6)
        assert rank["gradients"].keys() == one["gradients"].keys()
        for name, gradient in one["gradients"].items():
            atol = 1e-5 * max(1.0, float(gradient.abs().max()))
            torch.testing.assert_close(rank["gradients"][name], gradient, rtol=1e-5, atol=atol)
