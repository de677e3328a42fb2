"""Stages with `rows`: every micro-batch is one row within its budget, and nothing else about the training changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.data.row_plan import find_load
from medvlm.preflight.gpus import parse
from medvlm.preflight.plan import plan
from medvlm.preflight.table import format_plan
from medvlm.recipe.load import load
from tests.stages.batches import first, loss_of, weight_of
from tests.stages.planned_ranks import lengthening_samples
from tests.tiny_run import INSTRUCT, differing, recipe, run_ranks, samples, stop_after, trace, trained, weights, written

TOKENS, IMAGES = 100, 3
ROWS: dict[str, Any] = {
    "accumulate": 1,
    "tasks": ["choice", "count", "report"],
    "questions": 1,
    "max_tokens": 60,
    "rows": {"tokens": TOKENS, "images": IMAGES, "ahead": 4},
    "lora": {"rank": 2, "alpha": 4},
}


def gradients(stage: Any, micros: list[Any]) -> tuple[float, dict[str, torch.Tensor]]:
    stage.model.zero_grad()
    losses = [loss_of(stage, micro) for micro in micros]
    sum(losses).backward()  # type: ignore[union-attr]
    total = sum(float(loss.detach()) for loss in losses)
    return total, {n: p.grad.clone() for n, p in stage.model.named_parameters() if p.grad is not None}


def test_each_micro_batch_is_one_row_within_the_budget(stage_of: Any) -> None:
    stage = stage_of("supervised", **ROWS)
    batches, seen = stage.read_batches(0), []
    for step in range(6):
        position, documents = next(batches)
        assert position == 8 * step and len(documents) == 8
        micros = stage.make_micros(documents, 1)
        assert len(micros) > 1
        for micro in micros:
            assert len(micro.ids_BT) == 1 and micro.ids_BT.shape[1] <= TOKENS
            assert len(micro.media["film"]) <= IMAGES
            assert (micro.docs_BT >= 0).all(), "no padding"
        assert sorted(key for micro in micros for key in micro.keys) == sorted(d.key for d in documents)
        seen += [d.key for d in documents]
    batches.close()
    assert sorted(seen) == sorted(stage.stream.item(p).sample.key for p in range(48))
    assert seen[:8] != [stage.stream.item(p).sample.key for p in range(8)], "spread over the first four steps"


def test_loads_found_without_pixels_are_those_of_the_samples(stage_of: Any) -> None:
    stage = stage_of("supervised", **ROWS)
    batches = stage.read_batches(0)
    _, documents = next(batches)
    batches.close()
    planned = stage.row_planner.at(0)
    measured = [stage.row_planner._measure(position) for position in planned.own]
    assert measured == [find_load(document) for document in documents]
    assert all(load.images == 1 and load.pixels == 3 * 32 * 32 for load in measured)


def test_loss_and_gradients_are_those_of_single_samples(stage_of: Any) -> None:
    stage = stage_of("supervised", **ROWS)
    documents = first(stage)
    micros = stage.make_micros(documents, 1)
    loss, found = gradients(stage, micros)
    alone, expected = gradients(stage, [stage._collate([document]) for document in documents])
    assert loss == pytest.approx(alone, rel=1e-5)
    assert sum(weight_of(stage, micro) for micro in micros) == sum(len(b) - u for d in documents for b, u in d.branches)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5)


def test_validation_is_that_of_whole_batches(stage_of: Any) -> None:
    rows = stage_of("supervised", **ROWS, validate={"every": 1})
    whole = stage_of("supervised", **{**ROWS, "rows": None}, validate={"every": 1})
    whole.model.load_state_dict(rows.model.state_dict())
    micros = rows.make_micros(rows.prepare_validation(6), 1)
    assert all(len(m.ids_BT) == 1 and m.ids_BT.shape[1] <= TOKENS and len(m.media["film"]) <= IMAGES for m in micros)
    found, expected = rows.validate(rows.model, 6), whole.validate(whole.model, 6)
    assert found["loss"].sum == pytest.approx(expected["loss"].sum, rel=1e-5)
    assert found["loss"].weight == expected["loss"].weight


def test_a_row_with_nothing_to_train_changes_nothing(stage_of: Any) -> None:
    """Of a rank that has fewer samples than another one has rows."""
    stage = stage_of("supervised", **ROWS)
    documents = [replace(d, row=i % 2) for i, d in enumerate(first(stage)[:3])]
    loss, expected = gradients(stage, stage.make_micros(documents, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.engine, "find_most", lambda own: 5)
        micros = stage.make_micros(documents, 1)
    assert [len(micro.targets_L) > 0 for micro in micros] == [True, True, True, False, False]
    found, same = gradients(stage, micros)
    assert found == pytest.approx(loss, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(same[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["stages.0.rows.tokens=50"], "rows.tokens: 50 is less than max_tokens, 60"),
        (["stages.0.accumulate=2"], "accumulate: with `rows`, every row is a micro-batch"),
        (["stages.0.micro_tokens=400"], "micro_tokens: with `rows`, every row is a micro-batch"),
        (["stages.0.rows.token=50"], "rows.token: unknown key, did you mean 'tokens'?"),
        (["stages.0.rows.ahead=0"], "rows.ahead: expected more than 0, found 0"),
    ],
)
def test_rows_that_do_not_fit_the_rest_are_refused(tmp_path: Path, overrides: list[str], says: str) -> None:
    path = written(tmp_path, recipe(stages=[{**INSTRUCT, **ROWS}]))
    with pytest.raises(RecipeError) as refused:
        load(path, overrides)
    assert says in str(refused.value)


# --- runs -----------------------------------------------------------------------------------------


STAGE = {**INSTRUCT, **ROWS, "save_every": 1}
"""Six steps: a window of four and one of two."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planned")


def run_named(folder: Path, name: str) -> Path:
    return written(folder / name, recipe(name=name, stages=[STAGE]))


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> RunFolder:
    return trained(run_named(folder, "undisturbed"), folder / "runs")


def test_a_run_goes_on_in_the_middle_of_a_window_to_the_same_bits(folder: Path, undisturbed: RunFolder) -> None:
    path = run_named(folder, "stopped")
    assert stop_after(path, folder / "runs", 2) == 75
    run = trained(path, folder / "runs")
    assert trace(run, "instruct") == trace(undisturbed, "instruct")
    assert not differing(weights(run, "instruct"), weights(undisturbed, "instruct"))


def lines(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.mark.slow
def test_two_ranks_train_the_same_samples_from_the_start_and_from_the_middle(
    folder: Path, undisturbed: RunFolder
) -> None:
    halfway = run_named(folder, "halfway")
    assert stop_after(halfway, folder / "runs", 2) == 75
    fresh, longer = run_named(folder, "both"), run_named(folder, "longer-on-two")
    run_ranks(Path(__file__).parent / "planned_ranks.py", fresh, halfway, longer, folder / "runs")
    for name in ("both", "halfway"):
        run = RunFolder(folder / "runs" / name)
        assert samples(run, "instruct") == samples(undisturbed, "instruct")
        found, expected = ([line["loss"] for line in lines(r)] for r in (run, undisturbed))
        assert found == pytest.approx(expected, rel=1e-5)
        assert lines(run)[-1]["terms"]["padding"] == 0
        assert [line["sources"]["films"]["samples"] for line in lines(run)] == [8 * n for n in range(1, 7)]
        for uneven in ("uneven_tokens", "uneven_pixels"):
            assert 1 <= lines(run)[-1]["terms"][uneven] < 1.3 and uneven not in lines(undisturbed)[-1]["terms"]
    with lengthening_samples() as planned:
        run = trained(run_named(folder, "longer"), folder / "runs")
    assert False in planned, "no row would have been longer than its budget"
    both = RunFolder(folder / "runs" / "longer-on-two")
    assert samples(both, "instruct") == samples(run, "instruct")
    assert [line["loss"] for line in lines(both)] == pytest.approx([line["loss"] for line in lines(run)], rel=1e-5)


def test_plan_knows_the_heaviest_row(folder: Path, undisturbed: RunFolder) -> None:
    """The same samples, so the memory of the batch grows with the row, and not with the samples of a step."""

    def held(*overrides: str) -> float:
        found = plan(load(folder / "undisturbed" / "recipe.yaml", overrides), folder / "runs", parse("a100:1"))
        assert found.stages[0].memory, found.stages[0].notes
        parts = found.stages[0].memory[found.stages[0].chosen]
        return sum(parts.get(part, 0.0) for part in ("vision", "language", "logits", "work")) * 1e3

    assert held("stages.0.batch=64") == held()
    wide = ["stages.0.rows.tokens=4000", "stages.0.rows.images=0"]
    assert held(*wide) > 10 * held()
    text = format_plan(plan(load(folder / "undisturbed" / "recipe.yaml"), folder / "runs", parse("a100:1")))
    assert "6 steps of 8, in rows of at most 100 tokens, 3 images" in text
