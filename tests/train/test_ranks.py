"""Two processes compute the same as one: loss, gradients, order of samples, whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.run import RunFolder
from medvlm.core.stage_config import RANDOM
from medvlm.train import checkpoint
from tests.stages.test_distill import LEARN
from tests.stages.test_preference import PAIRED, PREFER
from tests.stages.test_preference_round import ROUND
from tests.studies import write_studies
from tests.tiny_run import (
    INSTRUCT,
    PAIR,
    REASON,
    ROOT,
    SMALL,
    STAGES,
    differing,
    recipe,
    run_ranks,
    trace,
    trained,
    weights,
    written,
)
from tests.train.two_ranks import CASES, STILL, WAITS, first_step

OPEN: dict[str, Any] = {"least": 0.0, "apart": 1e-3, "pay_cut": True, "right_answers": "failed"}
"""A gate that untrained models pass."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ranks")
    text = {"kind": "transformers", "config": {"model_type": "bert", **SMALL, **STILL, "num_hidden_layers": 1}}
    instruct = {**INSTRUCT, "lora": {"rank": 2, "alpha": 4}, "tasks": ["choice", "count", "boxes"], "questions": 3}
    prefer = {**PREFER, "lora": {"rank": 2}, "steps": 2}
    stages = [
        {**PAIR, "text": text},
        instruct,
        {**REASON, "steps": 3},
        prefer,
        {**LEARN, "teacher": RANDOM, "steps": 2},
        {**ROUND, "rewards": {"length": {"weight": 1, "least": 1, "most": 2}}, **OPEN, "steps": 2},
    ]
    written(made, recipe(seed=11, stages=stages), PAIRED)
    (made / "studies").mkdir()
    write_studies(made / "studies")
    return made


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    """The results of the two ranks. One process packs the data first."""
    trained(folder / "recipe.yaml", folder / "runs", "name=one")
    run_ranks(ROOT / "tests" / "train" / "two_ranks.py", folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_of_a_step_are_those_of_one_process(
    case: str, folder: Path, two: list[dict[str, Any]]
) -> None:
    one, first, second = (
        first_step(folder / "recipe.yaml", folder / "runs", *CASES[case]),
        *(rank["steps"][case] for rank in two),
    )
    assert one["keys"] == first["keys"] + second["keys"]
    assert one["weight"] == first["weight"] + second["weight"]
    for rank in (first, second):
        # Each rank's learned scale is the same number, so its mean is too.
        # Padding depends on which samples share rows.
        terms, expected = ({n: v for n, v in each["terms"].items() if n != "padding"} for each in (rank, one))
        assert terms == pytest.approx(expected, rel=1e-6, abs=1e-7)
        assert rank["gradients"].keys() == one["gradients"].keys()
        for name, gradient in one["gradients"].items():
            # A rank's products have other shapes than one process's, and some CPUs then sum in another order: 2.9e-6
            # was seen.
            torch.testing.assert_close(
                rank["gradients"][name], gradient, rtol=1e-5, atol=1e-5 * max(1.0, float(gradient.abs().max()))
            )


def test_a_part_for_which_no_rank_has_a_sample_waits_as_in_one_process(folder: Path, two: list[dict[str, Any]]) -> None:
    """In `rare`, one rank has no sample for it, and the other one has."""
    first, second = (rank["steps"]["joint, for one rank"]["weight"] for rank in two)
    assert first - second == 1 and all(rank["steps"]["joint, for no rank"]["weight"] == 4 for rank in two)
    trained(folder / "recipe.yaml", folder / "runs", "name=alone", *WAITS, only="pair")
    runs = [RunFolder(folder / "runs" / name) for name in ("alone", "waits")]
    alone, waits = (json.loads((run.stage("pair") / "stage.json").read_text())["trains"] for run in runs)
    assert waits == alone and not waits["terms.concepts"]["moved"] and waits["text"]["moved"]
    one, both = (trace(run, "pair") for run in runs)
    assert [keys for _, keys, _ in one] == [keys for _, keys, _ in both] and len(one) == 3


def test_ranks_whose_answers_call_a_tool_see_what_it_shows(two: list[dict[str, Any]]) -> None:
    """A precondition of the case `grpo, tools`: three of four answers call it, one of these in vain."""
    for rank in two:
        terms = rank["steps"]["grpo, tools"]["terms"]
        assert (terms["calls"], terms["refused_calls"]) == (0.75, pytest.approx(1 / 3))


def test_ranks_with_unequal_numbers_of_labels_are_weighed_by_them(two: list[dict[str, Any]]) -> None:
    """A precondition of the test above: the ranks have different numbers of labels."""
    first, second = (rank["steps"]["supervised, 1 micro-batches"]["weight"] for rank in two)
    assert first != second


def test_the_number_of_micro_batches_changes_no_gradient(two: list[dict[str, Any]]) -> None:
    whole, *split = (two[0]["steps"][f"supervised, {n} micro-batches"]["gradients"] for n in (1, 2, 4))
    for gradients in split:
        for name, gradient in whole.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_a_whole_run_takes_the_same_samples_in_the_same_order_and_loses_the_same(
    stage: str, folder: Path, two: list[dict[str, Any]]
) -> None:
    one = [
        r
        for line in RunFolder(folder / "runs" / "one").metrics.read_text().splitlines()
        if (r := json.loads(line))["stage"] == stage
    ]
    other = [r for line in two[0]["metrics"].splitlines() if (r := json.loads(line))["stage"] == stage]
    assert [r["samples"] for r in one] == [r["samples"] for r in other] and len({r["samples"] for r in one}) == len(one)
    assert [r["loss"] for r in other] == pytest.approx([r["loss"] for r in one], rel=1e-5, abs=1e-6)
    assert [r["terms"].get("reward/choice") for r in other] == [r["terms"].get("reward/choice") for r in one]


def test_two_ranks_agree_on_what_is_damaged_and_go_on_from_the_one_before(
    folder: Path, two: list[dict[str, Any]]
) -> None:
    """Both ranks see the damaged folder. One of them renames it, and the other is not affected."""
    assert json.loads((folder / "done.json").read_text()) == ["stage.json", "step-4", "step-6", "step-6.bad-1"]
    assert differing(weights(RunFolder(folder / "runs" / "two"), "instruct"), two[0]["instruct"]) == []


def test_a_signal_to_one_rank_stops_both_after_the_same_step(folder: Path, two: list[dict[str, Any]]) -> None:
    assert [rank["stopped"] for rank in two] == ["stage pair saved at step 3; run the same command again to resume"] * 2
    run = RunFolder(folder / "runs" / "stopped")
    assert (
        not checkpoint.find_damage(run.stage("pair") / "step-3")
        and json.loads(run.status.read_text())["status"] == "preempted"
    )
    assert {p.name for p in (run.stage("pair") / "step-3").glob("random-*")} == {"random-0.pt", "random-1.pt"}


def test_two_ranks_save_at_the_same_step_by_the_clock_of_the_first(folder: Path, two: list[dict[str, Any]]) -> None:
    """Step 3 is that of the signal."""
    stage = RunFolder(folder / "runs" / "stopped").stage("pair")
    assert checkpoint.list_saved_steps(stage) == [2, 3] and not checkpoint.find_damage(stage / "step-2")
    assert {p.name for p in (stage / "step-2").glob("random-*")} == {"random-0.pt", "random-1.pt"}
