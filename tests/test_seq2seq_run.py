"""A composed model whose language model has an encoder and a decoder through a whole run: planned, rehearsed, trained,
resumed, reinforced, evaluated, exported and proven."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from medvlm import api
from medvlm.commands import evaluate as evaluation
from medvlm.commands import export as exporting
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.recipe.load import load
from tests.tiny_run import CARD, INSTRUCT, REASON, TOWER, differing, trace, trained, weights, written

LANGUAGE = {
    "model_type": "t5",
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
}
SHORT = {**CARD, "reader": {"kind": "phantom", "films": 24, "film_px": 96}}
TUNE = {**INSTRUCT, "steps": 2, "save_every": 1, "batch": 4}
REINFORCE = {**REASON, "steps": 2, "save_every": 1, "batch": 2, "group": 3}


def recipe(**changes: Any) -> dict[str, Any]:
    return {
        "name": "encoded",
        "seed": 7,
        "model": {
            "encoders": {"film": {**TOWER, "connector": {"kind": "mlp"}}},
            "language": {"kind": "seq2seq", "config": LANGUAGE, "vocabulary": 512},
        },
        "data": {"films": {"card": "card.yaml"}},
        "stages": [TUNE, REINFORCE],
        "engine": {"device": "cpu", "workers": 1},
        "export": {"target": "custom"},
        "evaluate": {"on": ["films:test"], "samples": 3, "max_new_tokens": 6, "bootstrap": 10},
        **changes,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("encoded")
    return trained(written(folder, recipe(), SHORT), folder / "runs")


def test_it_goes_on_from_a_checkpoint_as_if_it_had_not_been_cut_off(run: RunFolder) -> None:
    straight, kept = trace(run, "instruct"), weights(run, "instruct")
    whole = run.root.with_name("whole")
    shutil.copytree(run.root, whole)
    shutil.rmtree(run.stage("instruct") / "step-2")
    shutil.rmtree(run.stage("reason"))
    (run.stage("instruct") / "stage.json").unlink()
    again = trained(run.root.parent.parent / "recipe.yaml", run.root.parent, only="instruct")
    assert trace(again, "instruct") == straight and [step for step, *_ in straight] == [1, 2]
    assert differing(weights(again, "instruct"), kept) == []
    shutil.rmtree(run.root)
    whole.rename(run.root)


def test_every_part_is_proven_trained_or_frozen(run: RunFolder) -> None:
    for name in ("instruct", "reason"):
        record = json.loads((run.stage(name) / "stage.json").read_text())
        assert set(record["trains"]) == {"connectors.film", "lora"}
        assert set(record["frozen"]) == {"encoders.film", "language"}


@pytest.mark.slow
def test_it_is_evaluated_and_its_folder_is_proven(run: RunFolder, tmp_path: Path) -> None:
    rows = {(row["task"], row["metric"]): row for row in evaluation.evaluate(run.root)}
    assert set(rows["vqa", "accuracy"]["baselines"]) >= {"blind", "majority"}
    (receipt,) = exporting.export(run, tmp_path / "out")
    assert receipt.kind == "custom" and receipt.parity["passed"] and receipt.parity["image_effect"] > 0
    assert receipt.parity["class"] == "EncoderDecoderVLM" and receipt.audit.merged
    again = {(r["task"], r["metric"]): r["value"] for r in evaluation.evaluate(receipt.folder, ["films:test"])}
    assert again["vqa", "accuracy"] == rows["vqa", "accuracy"]["value"]


@pytest.mark.slow
def test_it_is_planned_and_rehearsed(tmp_path: Path) -> None:
    path = written(tmp_path, recipe(), SHORT)
    stages = api.plan(path, gpus="h200:2").stages
    assert [(stage.name, stage.fits) for stage in stages] == [("instruct", True), ("reason", True)], stages
    api.dry_run(path)


@pytest.mark.parametrize(("change", "message"), [
    ({"rows": {"tokens": 4096}, "accumulate": 1}, r"stages.instruct.rows: this model reads its prompts in both"),
    ({"loss": "all"}, r"loss: all: an encoder reads the prompts of this model; only answers can be trained"),
])  # fmt: skip
def test_what_it_cannot_do_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, recipe(stages=[{**TUNE, "questions": 1, **change}]), SHORT)
    with pytest.raises(RecipeError, match=message):
        trained(path, tmp_path / "runs")


def test_a_stock_target_is_refused_when_the_recipe_is_checked(tmp_path: Path) -> None:
    path = written(tmp_path, recipe(export={"target": "llava"}), SHORT)
    with pytest.raises(RecipeError, match=r"model.language is of kind seq2seq, and the stock class takes a causal"):
        load(path)
