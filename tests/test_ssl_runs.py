"""Encoders that learn from images alone, from an archive to an export: trained, stopped and resumed, probed, evaluated,
rehearsed and planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medvlm import cli
from medvlm.commands.dry_run import dry_run
from medvlm.compositions._open import open_model
from medvlm.core.run import RunFolder
from medvlm.io.opening import open_shards
from medvlm.preflight.plan import plan
from medvlm.recipe.load import load
from medvlm.train import checkpoint
from tests.labelled_run import write_run
from tests.ssl_run import DINO, MAE, VOCO_OMNI, recipe
from tests.tiny_run import CARD, differing, stop_after, trace, trained, weights, written

PROBE = {"source": "films", "template": "side", "samples": 20, "neighbours": 5}
DISTIL: dict[str, Any] = {
    "loss": {**DINO, "centring": "mean", "momentum": 0.9},
    "check_every": 2,
    "probe": PROBE,
    "validate": {"every": 3, "samples": 8},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("distil"), recipe(**DISTIL))


@pytest.fixture(scope="module")
def run(path: Path) -> RunFolder:
    return trained(path, path.parent / "runs")


def read_log(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_losses_probe_and_checks_are_logged(run: RunFolder) -> None:
    steps = [line for line in read_log(run) if "loss" in line]
    assert all({"whole", "patches", "koleo"} <= set(line["terms"]) for line in steps)
    assert [line["step"] for line in steps if {"spread", "rank", "information"} <= set(line["terms"])] == [2, 4, 6]
    found = [line["validation"] for line in read_log(run) if "validation" in line]
    assert len(found) == 2
    for each in found:
        assert 0 <= each["probe.accuracy"] <= 1 and 0 < each["probe.majority"] < 1 < each["probe.rank"]


def test_the_teacher_is_in_the_checkpoint_and_becomes_the_encoder(run: RunFolder) -> None:
    folder = run.stage("look")
    before, last = (checkpoint.read_weights(folder / f"step-{step}", "teacher") for step in (4, 6))
    assert {"memory_whole", "memory_patches", "mask_token"} <= {name.removeprefix("objective.") for name in last}
    own = weights(run, "look")
    encoder = [name for name in own if name.startswith("encoders.")]
    assert all(torch.equal(own[name], last[name]) for name in encoder)
    assert any(not torch.equal(before[name], last[name]) for name in encoder)
    student = checkpoint.read_weights(folder / "step-4")
    assert any(not torch.equal(student[name], before[name]) for name in encoder)


def test_a_stopped_stage_resumes_to_the_same_bits(run: RunFolder, path: Path, tmp_path: Path) -> None:
    assert stop_after(path, tmp_path, 3) == 75
    again = trained(path, tmp_path)
    assert trace(run, "look") == trace(again, "look") and not differing(weights(run, "look"), weights(again, "look"))
    teachers = [checkpoint.read_weights(each.stage("look") / "step-6", "teacher") for each in (run, again)]
    assert not differing(*teachers)


@pytest.mark.slow
def test_a_copy_of_the_network_is_taken_once_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """VoComni, stopped at the step from which the copy stays."""
    loss = {**VOCO_OMNI, "pseudo_from": 0.5}
    path = write_run(tmp_path / "omni", recipe(loss=loss, save_every=1, keep_every=1))
    whole = trained(path, tmp_path / "whole")
    assert stop_after(path, tmp_path / "stopped", 3) == 75
    again = trained(path, tmp_path / "stopped")
    assert trace(whole, "look") == trace(again, "look") and not differing(
        weights(whole, "look"), weights(again, "look")
    )
    teachers = [checkpoint.read_weights(each.stage("look") / "step-6", "teacher") for each in (whole, again)]
    assert not differing(*teachers)
    of_step = {n: checkpoint.read_weights(whole.stage("look") / f"step-{n}", "teacher") for n in (3, 4, 6)}
    own = checkpoint.read_weights(whole.stage("look") / "step-3")
    for name, last in of_step[6].items():
        follows = name.startswith("objective.project.")
        assert torch.equal(last, of_step[4][name]) != follows and (follows or torch.equal(last, own[name])), name
    lines = [line["terms"] for line in read_log(whole) if "loss" in line]
    assert [bool(terms["pseudo.dice"]) for terms in lines] == [False] * 3 + [True] * 3
    found = weights(whole, "look")
    assert any(not torch.equal(found[name], of_step[6][name]) for name in found if name.startswith("encoders."))


@pytest.mark.slow
def test_it_is_evaluated_by_its_neighbours_and_exported_without_the_method(run: RunFolder, tmp_path: Path) -> None:
    assert cli.main(["evaluate", str(run.root)]) == 0
    rows = {(row["task"], row["metric"]) for row in json.loads(run.results.read_text())}
    assert {("knn", "accuracy:side"), ("linear_probe", "accuracy:side")} <= rows
    assert cli.main(["export", str(run.root), "--to", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "medvlm" / "parity.json").read_text())
    assert record["passed"] and {name.partition(".")[0] for name in record["diffs"]} == {"patches", "pooled"}
    (opened,), (by_run,) = open_model(tmp_path / "out"), open_model(run.root)
    assert not any("objective" in name for name in opened.model.state_dict())  # type: ignore[attr-defined]
    (shards,) = (each for each in (run.root.parent / "shards").iterdir() if each.is_dir())
    sample, files = open_shards(shards).read("test", 0)
    a, b = (next(model.embed_each(sample, files)) for model in (opened, by_run))
    assert a.shape == (32,) and torch.equal(a, b)


@pytest.mark.slow
def test_one_encoder_is_exported_for_timm(run: RunFolder, tmp_path: Path) -> None:
    assert cli.main(["export", str(run.root), "--to", str(tmp_path / "out"), "--target", "encoder"]) == 0
    assert json.loads((tmp_path / "out" / "medvlm" / "parity.json").read_text())["passed"]


@pytest.mark.parametrize("loss", [MAE, DINO], ids=lambda loss: loss["kind"])
def test_a_plan_tells_parameters_and_memory(loss: dict[str, Any], tmp_path: Path) -> None:
    path = write_run(tmp_path, recipe(loss=loss))
    (stage,) = plan(load(path, ["data.films.root=''"]), tmp_path / "runs", None).stages
    assert {module.name for module in stage.modules} == {"encoders.film", "objective"}
    assert stage.flops > 0 and not stage.notes


@pytest.mark.slow
def test_a_dry_run_goes_through_all_of_it(path: Path, tmp_path: Path) -> None:
    lines = dry_run(load(path, ["data.films.root=''"]), tmp_path, lambda line: None)
    done = {line.what: line.done for line in lines}
    assert all(done[what] for what in ("data", "stage look", "evaluate", "export")), done
    assert "parity proven" in done["export"] and "resumed bit-identically" in done["stage look"]


def test_an_encoder_of_volumes_learns_to_paint_what_is_masked(tmp_path: Path) -> None:
    card = {**CARD, "media": ["volume"], "reader": {"kind": "phantom", "volumes": 24}}
    preprocess = {"size": [24, 32, 32], "channels": 1, "mean": [0.5], "std": [0.5], "window": [-1000, 400]}
    encoder = {"kind": "monai", "patch": [6, 8, 8], "width": 24, "layers": 2, "heads": 2, "preprocess": preprocess}
    content = recipe(steps=40, optim={"lr": 1.0e-2}, save_every=0)
    content |= {"model": {"encoders": {"volume": encoder}}, "data": {"films": {"card": "card.yaml"}}, "evaluate": {}}
    run = trained(written(tmp_path, content, card), tmp_path / "runs")
    losses = [line["loss"] for line in read_log(run)]
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:3])
