"""Decoders from an archive to a report: trained, stopped and resumed, evaluated, shown, rehearsed and planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from medvlm import cli
from medvlm.commands.dry_run import dry_run
from medvlm.compositions._decoding import _to_answers
from medvlm.compositions._open import open_expert, open_model
from medvlm.compositions._with_context import give_context
from medvlm.core.ask import Ask
from medvlm.core.context_config import ContextConfig
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.core.sample import Question, make_truth
from medvlm.core.tool_config import Environment
from medvlm.io.opening import open_shards
from medvlm.models.decoding import Labelled
from medvlm.models.parts import evaluating
from medvlm.preflight.plan import plan
from medvlm.recipe.load import load
from medvlm.tasks._runs import read_runs
from medvlm.tasks._writing import Writing
from medvlm.tools._episode import Episode, describe_files
from tests.knowledge.test_knowledge import Echo
from tests.labelled_run import FIT, recipe, write_run
from tests.tiny_run import INSTRUCT, REASON, differing, staged, stop_after, trace, trained, weights, written
from tests.tiny_run import recipe as tiny


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fit = {**FIT, "steps": 60, "save_every": 20, "validate": {"every": 30, "samples": 8}}
    return write_run(tmp_path_factory.mktemp("labelled"), recipe(stages=[fit]))


@pytest.fixture(scope="module")
def run(path: Path) -> RunFolder:
    run = trained(path, path.parent / "runs")
    assert cli.main(["evaluate", str(run.root)]) == 0
    return run


def rows(run: RunFolder) -> dict[str, dict[str, Any]]:
    return {f"{row['task']}/{row['metric']}": row for row in json.loads(run.results.read_text())}


def records(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.results.parent / "predictions.jsonl").read_text().splitlines()]


def test_a_target_for_other_models_is_refused_with_the_reason(path: Path) -> None:
    with pytest.raises(RecipeError, match="no stock class holds this model: it has 3 decoders"):
        load(path, ["export.target=stock"])


def test_every_loss_falls_and_is_logged_by_its_name(run: RunFolder) -> None:
    logged = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    steps = [line for line in logged if "loss" in line]
    names = {"side.cross_entropy", "square.cross_entropy", "square.dice", "traits.binary_cross_entropy"}
    for line in steps:
        assert names <= set(line["terms"])
        assert line["loss"] == pytest.approx(sum(line["terms"][name] for name in names))
    for name in names:
        first, last = (np.mean([line["terms"][name] for line in part]) for part in (steps[:10], steps[-10:]))
        assert last < first, name
    validations = [line["validation"] for line in logged if "validation" in line]
    assert len(validations) == 2 and validations[1]["loss"] < validations[0]["loss"]


def test_results_stand_beside_the_best_constant_and_a_shuffled_image(run: RunFolder) -> None:
    found = rows(run)
    dice = found["mask/dice"]
    assert dice["value"] > 0.6 > dice["baselines"]["majority"] and dice["value"] > dice["baselines"]["shuffled"]
    assert dice["ci"][0] <= dice["value"] <= dice["ci"][1] and "blind" not in dice["baselines"]
    assert found["mask/iou:square"]["value"] < found["mask/dice:square"]["value"] == dice["value"]
    auroc = found["labels/auroc:side"]
    assert auroc["baselines"]["majority"] == 0.5
    assert {"labels/auroc:look:high", "labels/auroc:look:large", "labels/accuracy:side", "labels/auroc"} <= set(found)
    macro = np.mean([found[f"labels/auroc:look:{name}"]["value"] for name in ("high", "large")])
    assert found["labels/auroc:look"]["value"] == pytest.approx(macro, abs=1e-6)
    assert found["labels/auroc:look:large"]["n"] > found["labels/auroc:look:high"]["n"], "some labels are missing"


def test_answers_are_kept_as_short_text_and_scores(run: RunFolder) -> None:
    for record in records(run):
        if record["task"] == "mask":
            assert isinstance(record["answer"], str) and len(record["answer"]) < 2000
            assert read_runs(record["answer"], 1, (32, 32)) is not None
        else:
            assert isinstance(record["answer"], list) and len(record["answer"]) == 2
    assert {record["template"] for record in records(run)} == {"square", "side", "look"}


def test_the_report_shows_masks_and_what_was_taken_for_what(run: RunFolder) -> None:
    assert cli.main(["report", str(run.root)]) == 0
    page = run.report.read_text()
    assert 'class="layer m-truth"' in page and 'class="layer m-answer"' in page and "Confusion" in page
    assert "AUROC" in page and "Dice" in page


def test_a_stopped_stage_resumes_to_the_same_bits(run: RunFolder, path: Path, tmp_path: Path) -> None:
    assert stop_after(path, tmp_path, 25) == 75
    again = trained(path, tmp_path)
    assert not differing(weights(run, "fit"), weights(again, "fit")) and trace(run, "fit") == trace(again, "fit")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [pytest.param([], id="archive"), pytest.param(["data.films.root=''"], id="made up")],
)
def test_a_dry_run_goes_through_all_of_it(overrides: list[str], path: Path, tmp_path: Path) -> None:
    lines = dry_run(load(path, overrides), tmp_path, lambda line: None)
    done = {line.what: line.done for line in lines}
    assert all(done[what] for what in ("data", "stage fit", "evaluate", "export", "report")), done
    assert "labels, mask" in done["evaluate"] and "parity proven" in done["export"]
    assert any("resumed bit-identically" in what for what in done.values())


def test_a_plan_tells_parameters_and_memory(path: Path, tmp_path: Path) -> None:
    planned = plan(load(path, ["data.films.root=''"]), tmp_path, None)
    (stage,) = planned.stages
    assert {module.name for module in stage.modules} == {
        "encoders.film", "decoders.square", "decoders.side", "decoders.traits",
    }  # fmt: skip
    assert all(module.trained and not module.frozen for module in stage.modules) and stage.flops > 0


def test_predict_writes_the_scores_of_each_sample(run: RunFolder, tmp_path: Path) -> None:
    (shards,) = (path for path in (run.root.parent / "shards").iterdir() if path.is_dir())
    assert cli.main(["predict", str(run.root), "--on", f"{shards}:test", "--to", str(tmp_path / "s.parquet")]) == 0
    rows = [{**row, "scores": dict(row["scores"])} for row in pq.read_table(tmp_path / "s.parquet").to_pylist()]
    packed = open_shards(shards)
    assert {row["template"] for row in rows} == {"side", "traits"}  # the mask has no score for the whole image
    assert {row["key"] for row in rows} == {packed.entry("test", i).key for i in range(packed.count("test"))}
    (opened,) = open_model(run.root)
    sample, files = packed.read("test", 0)
    (first,) = (row for row in rows if row["key"] == sample.key and row["template"] == "side")
    (question,) = (q for q in sample.questions if q.template == "side")
    (decoded,) = opened.decode([Ask(sample, files, question)])  # type: ignore[attr-defined]
    assert list(first["scores"].values()) == pytest.approx(decoded, abs=1e-6)
    assert sum(first["scores"].values()) == pytest.approx(1) and (first["answer"], first["source"]) == (None, "squares")


def test_another_model_asks_its_decoders_as_an_expert(run: RunFolder) -> None:
    """Probabilities are those of `score`; maps are the decoder's over the stored pixels, as torch resizes them."""
    expert = open_expert(str(run.root))
    (shards,) = (run.root.parent / "shards").glob("[!.]*")
    sample, files = open_shards(shards).read("test", 0)
    scores, maps = expert.look(sample, files)
    assert scores == {name: p for of in expert.score(sample, files).values() for name, p in of.items()}
    assert scores.keys() == {"left", "right", "high", "large"} and maps.keys() == {"square"}
    encoder, pixels = expert.prepare.see(sample, files).media[0]
    batch = Labelled({encoder: pixels[None]}, {"square": torch.tensor([0])})
    with evaluating(expert.model):
        logits = expert.model(batch)["decoders.square"]
    plane = _to_answers(logits, expert.decoders["square"])
    expected = torch.nn.functional.interpolate(plane, size=sample.media[0].size, mode="nearest-exact")[0, -1]
    np.testing.assert_allclose(maps["square"], expected.numpy(), atol=1e-6)
    assert plane.shape[-2:] != maps["square"].shape

    tool = {"kind": "expert", "run": str(run.root), "form": "<FILM({})>", "says": "The predictions are:\n{}"}
    environment = Environment.model_validate({"tools": [tool]})
    question = Question("Where?", make_truth("open"), "own")
    episode = Episode(environment, sample, files, question, lambda: None, Writing(), open_expert)
    step = episode.hear("Let me first trigger <FILM()>.")
    assert step is not None and len(step.shown.media) == 1
    said = [f"{name}: {'yes' if p > 0.5 else 'no'}" for name, p in scores.items()]
    assert step.shown.text.splitlines() == ["The predictions are:", "The colors mean yellow: square.", *said]
    before = describe_files(environment)
    (run.root / "fit" / "stage.json").write_text((run.root / "fit" / "stage.json").read_text() + "\n")
    assert describe_files(environment) != before and before["expert"]


def test_an_expert_says_the_same_in_supervised_data_rollouts_and_evaluation(run: RunFolder, tmp_path: Path) -> None:
    provider = {"kind": "expert", "run": str(run.root), "words": "probabilities"}
    context = {"provider": provider, "says": "A network says {}\n"}
    (shards,) = (run.root.parent / "shards").glob("[!.]*")
    (sample, files), other = (open_shards(shards).read("test", number) for number in (0, 1))
    question, expert = Question("Where?", make_truth("open", "here"), "own"), open_expert(str(run.root))

    def say(*about: Any) -> str:
        found = {name: p for of in expert.score(*about).values() for name, p in of.items()}
        return "A network says " + "\n".join(f"{name}: {p:.2f}" for name, p in found.items()) + "\nWhere?"

    said = say(sample, files)
    assert said != say(*other)
    (model,) = give_context([Echo()], ContextConfig.model_validate(context), open_expert)
    asks = [
        Ask(sample, files, question),
        Ask(sample, files, question, media_of=other),
        Ask(sample, files, question, "none"),
    ]
    assert model.answer(asks) == [said, say(*other), "Where?"]
    assert model.identity["context"]["files"]
    with pytest.raises(RecipeError, match="no run of medvlm and no folder that it exported"):
        open_expert(str(tmp_path))
    for stage in (INSTRUCT, {**REASON, "trains": ["connectors"], "lora": None}):
        whole = tiny(stages=[stage], context=context)
        told = staged(written(tmp_path / str(stage["name"]), whole), tmp_path / "runs", str(stage["name"])).setup
        seen = told.prepare.see(sample, files)
        asked = told.prepare.turn(sample, question, seen, ["media"], True).prompt
        assert said in told.tokenizer.decode(asked)
        asked = told.prepare.turn(sample, question, seen, [], True).prompt
        assert "network" not in told.tokenizer.decode(asked), "a question without its images"
        planned = told.prepare.estimate(True)
        asked = planned.turn(sample, question, planned.see(sample, files), ["media"], True).prompt
        assert "network" not in told.tokenizer.decode(asked), "a plan reads no files"
