"""A ready model of every family through a whole run: trained, resumed, reinforced, evaluated against its baselines,
exported and proven."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from medvlm.commands import evaluate as evaluation
from medvlm.commands import export as exporting
from medvlm.compositions._open import open_stage
from medvlm.core.config import kinds
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.run import RunFolder
from medvlm.evaluate.compare import compare
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.recipe.load import load, load_run
from medvlm.recipe.sources import open_sources
from medvlm.train import checkpoint
from medvlm.train.finished import find_final
from medvlm.train.state_file import read_published
from tests.tiny_run import CARD, INSTRUCT, REASON, differing, trace, trained, weights, written

FAST = "qwen3_vl"
TUNE = {
    **INSTRUCT,
    "steps": 2,
    "save_every": 1,
    "batch": 4,
    "tasks": ["choice", "count", "boxes"],
    "trains": ["encoders", "connectors", "lora"],
}
REINFORCE = {**REASON, "steps": 2, "save_every": 1, "batch": 2, "group": 3, "tasks": ["choice", "count"]}


def recipe(model: Path, **changes: Any) -> dict[str, Any]:
    asked = {"on": ["films:test", "films:held_out"], "samples": 3, "max_new_tokens": 6, "bootstrap": 10}
    return {
        "name": "ready",
        "seed": 7,
        "model": {"pretrained": str(model)},
        "data": {"films": {"card": "card.yaml", "hold_out": {"by": "concept", "share": 0.2}}},
        "stages": [TUNE, REINFORCE],
        "engine": {"device": "cpu", "workers": 1},
        "evaluate": asked,
        **changes,
    }


@pytest.fixture(
    scope="module", params=[f if f == FAST else pytest.param(f, marks=pytest.mark.slow) for f in kinds("families")]
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    if request.param == "smolvlm":
        pytest.importorskip("num2words", reason="its processor needs num2words")
    folder = tmp_path_factory.mktemp(request.param)
    card = {**CARD, "reader": {"kind": "phantom", "films": 24, "film_px": 96}}
    return trained(written(folder, recipe(save_tiny(request.param, folder / "model")), card), folder / "runs")


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
    tuned, reinforced = (json.loads((run.stage(name) / "stage.json").read_text()) for name in ("instruct", "reason"))
    assert set(tuned["trains"]) == {"encoders.image", "connectors.image", "lora"} and set(tuned["frozen"]) >= {
        "language"
    }
    assert set(reinforced["trains"]) == {"connectors.image", "lora"} and set(reinforced["frozen"]) >= {
        "encoders.image",
        "language",
    }


def test_its_checkpoints_hold_what_was_trained_and_open_only_on_the_model_that_it_was_trained_on(
    run: RunFolder, tmp_path: Path
) -> None:
    loaded, model = load_run(run.root).recipe, run.root.parent.parent / "model"
    last = loaded.stages[1]
    folder = find_final(run.stage("reason"))
    stored, published = checkpoint.read_weights(folder), read_published(folder)
    opened = open_stage(loaded, run, last)
    state = opened.model.state_dict()
    assert stored.keys().isdisjoint(published) and stored.keys() | published.keys() == state.keys()
    # What a model has for media that medvlm does not read (Gemma 4: audio) is never trained either.
    # Nor are the last layers of a tower of which an earlier one is read (Llava).
    parts = {name.split(".")[0] for name in published} - {"unread"}
    assert "language" in parts and parts <= {"language", "encoders"}
    assert all(".lora_" in name or not name.startswith("language") for name in stored)
    whole = RunFolder(tmp_path / "whole")  # as earlier releases wrote it
    shutil.copytree(run.root, whole.root)
    meta = checkpoint.read_state(folder)
    del meta["meta"]["published"]
    shutil.rmtree(whole.stage("reason") / folder.name)
    made = checkpoint.save(whole.stage("reason"), meta["step"], {"model": state, "optim": {}}, meta, rank=0)
    record = whole.stage("reason") / "stage.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "checkpoint": checkpoint.digest(made)}))
    model.rename(tmp_path / "model")
    try:
        assert differing(open_stage(loaded, whole, last).model.state_dict(), state) == []
        with pytest.raises(CheckpointError, match=r"reason/step-2 does not hold the published .* cannot be read"):
            open_stage(loaded, run, last)
        shutil.copytree(tmp_path / "model", model)
        file = model / "model.safetensors"
        tensors = load_file(file)
        name = next(name for name in tensors if "layers.0" in name and not re.search("vision|visual|audio", name))
        save_file({**tensors, name: tensors[name] + 1}, file, {"format": "pt"})
        with pytest.raises(
            CheckpointError, match=r"reason/step-2: language\..* is not stored in it, and the published"
        ):
            open_stage(loaded, run, last)
        for name in ("instruct", "reason"):
            (whole.stage(name) / "stage.json").unlink()
        whole.root.rename(tmp_path / "ready")
        with pytest.raises(
            CheckpointError, match=r"instruct/step-2: language\..* is not stored in it, and the published"
        ):
            trained(run.root.parent.parent / "recipe.yaml", tmp_path, only="instruct")
        shutil.rmtree(model)
    finally:
        (tmp_path / "model").rename(model)


def test_it_is_evaluated_against_its_baselines(run: RunFolder) -> None:
    rows = {(row["split"], row["task"], row["metric"]): row for row in evaluation.evaluate(run.root)}
    accuracy = rows["test", "vqa", "accuracy"]
    shuffled = {"shuffled"} if accuracy["patients"] > 1 else set()  # images of another patient
    assert set(accuracy["baselines"]) == {"blind", "majority"} | shuffled
    asked = [json.loads(line) for line in run.answers.read_text().splitlines()]
    keys = {split: {line["key"] for line in asked if line["split"] == split} for split in ("test", "held_out")}
    source = open_sources(load_run(run.root), run.root.parent, lambda _: None)["films"]
    held, rest = (
        {source.shards.entry(*place).key for place in source.locate_samples(split)} for split in ("held_out", "test")
    )
    assert keys["held_out"] and keys["test"] and keys["held_out"] <= held and keys["test"] <= rest and not held & rest
    boxes = [line for line in asked if line["task"] == "boxes"]
    assert (
        boxes
        and all(len(line["scale"]) == 2 for line in boxes)
        and all((run.answers.parent / line["thumb"]).is_file() for line in boxes)
    )


def test_its_start_answers_as_the_model_does_that_it_was_made_of(run: RunFolder) -> None:
    """The model by its folder, without the run, is the reference. The weights of the run are others."""
    evaluation.evaluate(run.root, ["films:test"], start=True, overrides=["evaluate.baselines=[blind]"])
    plain = {"on": ["films:test"], "samples": 3, "max_new_tokens": 6, "bootstrap": 10, "baselines": ["blind"]}
    folder = run.root.parent.parent / "plain"
    card = {**CARD, "reader": {"kind": "phantom", "films": 24, "film_px": 96}}
    path = written(folder, recipe(folder.parent / "model", stages=[], evaluate=plain, name="plain"), card)
    evaluation.evaluate(path, runs=folder / "runs")
    start, alone = RunFolder(run.root / "start"), RunFolder(folder / "runs/plain")
    records, expected = (
        [json.loads(line) for line in each.answers.read_text().splitlines()] for each in (start, alone)
    )
    said = ("key", "question", "answer", "blind")
    assert records and [[r[x] for x in said] for r in records] == [[r[x] for x in said] for r in expected]
    with pytest.raises(RecipeError, match="nothing was trained"):
        evaluation.evaluate(path, runs=folder / "runs", start=True)
    evaluation.evaluate(run.root, ["films:test"], overrides=["evaluate.baselines=[blind]"])
    found = compare({"start": [start.answers.parent], "run": [run.answers.parent]})
    assert any(each.metric == "accuracy" and each.n for each in found)


def test_the_exported_folder_answers_as_the_run_does_in_plain_transformers(run: RunFolder, tmp_path: Path) -> None:
    (receipt,) = exporting.export(run, tmp_path / "out")
    assert receipt.kind == "native" and receipt.parity["passed"] and receipt.parity["max_abs_logit_diff"] < 1e-4
    assert receipt.parity["class"].endswith("ForConditionalGeneration") and receipt.parity["image_effect"] > 1e-2
    once = any(name in receipt.parity["class"] for name in ("PaliGemma", "Florence2"))
    assert receipt.parity["golden"] == (0 if once else 20)
    audit = receipt.audit
    assert audit.count()["missing"] == 0 and audit.merged and audit.replaced
    card = (receipt.folder / "README.md").read_text()
    assert (
        "encoders.image" in card and "AutoModelForImageTextToText" in card and str(run.root.parent.parent) not in card
    )


@pytest.mark.slow
def test_its_adapters_are_a_peft_folder_over_the_family_s_own_class(run: RunFolder, tmp_path: Path) -> None:
    (receipt,) = exporting.export(run, tmp_path / "out", ["adapter"])
    wrapper, _, inner = receipt.parity["class"].partition(" over ")
    assert receipt.parity["passed"] and wrapper == (
        "PeftModelForSeq2SeqLM" if "Florence2" in inner else "PeftModelForCausalLM"
    )
    assert receipt.parity["adapter_effect"] > 0 and receipt.audit.adapters


def test_a_recipe_that_mixes_ready_and_composed_is_refused(tmp_path: Path) -> None:
    tower = {"film": {"kind": "transformers", "config": {"model_type": "siglip_vision_model"}}}
    changes: list[tuple[dict[str, Any], str]] = [
        ({"model": {"pretrained": "a/b", "encoders": tower}}, "is a whole model"),
        ({"model": {}}, "give `encoders`"),
        ({"model": {"pretrained": "a/b", "boxes": {"codec": "bbox2d"}}}, "did you mean 'bbox_2d'"),
        (
            {"model": {"pretrained": "a/b", "views": {"flim": {"max_slices": 3}}}},
            "media of kind 'flim', did you mean 'film'",
        ),
        (
            {"export": {"target": "custom"}},
            "has no folder format of medvlm; export it as stock, or to a target of its plugin$",
        ),
    ]
    for change, message in changes:
        path = written(tmp_path, {**recipe(Path("a/b")), **change}, CARD)
        with pytest.raises(RecipeError, match=message):
            load(path)


def test_a_setting_that_the_image_processor_does_not_have_is_refused(tmp_path: Path) -> None:
    model = {"pretrained": str(save_tiny(FAST, tmp_path / "model")), "processor": {"sise": {"shortest_edge": 256}}}
    with pytest.raises(RecipeError, match=r"model\.processor\.sise: .* did you mean 'size'"):
        trained(written(tmp_path, {**recipe(tmp_path / "model"), "model": model}, CARD), tmp_path / "runs")
