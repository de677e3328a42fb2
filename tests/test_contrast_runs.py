"""Towers that learn from labels in words with further losses, from an archive to an export: trained, stopped and
resumed, evaluated, rehearsed and planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medvlm import cli
from medvlm.commands.dry_run import dry_run
from medvlm.core.run import RunFolder
from medvlm.preflight.plan import plan
from medvlm.recipe.load import load
from tests import labelled_run
from tests.labelled_run import write_run
from tests.tiny_run import SMALL, differing, stop_after, trace, trained, weights

SIDES = {"left": ["a square in the left half"], "right": ["a square in the right half"]}
LOOKS = {"large": ["a large square"], "high": ["a square in the upper half"]}
PAIR: dict[str, Any] = {
    "name": "pair",
    "kind": "contrastive",
    "mix": {"films": 1},
    "trains": ["encoders", "text", "heads", "terms"],
    "text": {"kind": "transformers", "config": {"model_type": "bert", **SMALL, "num_hidden_layers": 1}},
    "loss": {"kind": "clip"},
    "labels": {"of": "side", "sentences": ["film: {label}."], "dictionary": {"version": "1", "entries": SIDES}},
    "terms": {
        "local": {"kind": "word_regions", "width": 8},
        "concepts": {"kind": "patch_concepts", "width": 8, "dictionary": {"version": "1", "entries": SIDES}},
        "asked": {
            "kind": "query_decoder", "of": "look", "width": 8, "heads": 2, "layers": 1,
            "dictionary": {"version": "1", "entries": LOOKS},
        },
        "traits": {
            "kind": "decoded", "losses": ["binary_cross_entropy"],
            "decoder": {**labelled_run.DECODERS["traits"]},
        },
        "written": {"kind": "captioning", "width": 8, "heads": 2, "layers": 1, "most": 24},
    },
    "width": 8,
    "steps": 6,
    "batch": 8,
    "accumulate": 2,
    "exchange": "ring",
    "ema": 0.5,
    "save_every": 2,
    "validate": {"every": 3, "samples": 8},
    "optim": {"lr": 3.0e-3, "layer_decay": 0.8},
}  # fmt: skip
NAMES = {"pairs", *PAIR["terms"]}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = labelled_run.recipe(name="pair", stages=[PAIR])
    whole["model"] = {"encoders": {"film": labelled_run.ENCODER}}
    whole["evaluate"] = {
        "on": ["films:test"],
        "protocols": [{"kind": "zero_shot", "templates": ["side"]}],
        "bootstrap": 100,
    }
    return write_run(tmp_path_factory.mktemp("pair"), whole)


@pytest.fixture(scope="module")
def run(path: Path) -> RunFolder:
    return trained(path, path.parent / "runs")


def test_every_loss_is_logged_and_their_sum_is_the_loss(run: RunFolder) -> None:
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    for step in steps:
        assert step["terms"].keys() >= NAMES
        assert sum(step["terms"][name] for name in NAMES) == pytest.approx(step["loss"], rel=1e-5)
    assert steps[-1]["loss"] < steps[0]["loss"]
    found = [record["validation"] for record in records if "validation" in record]
    assert len(found) == 2 and all(NAMES | {"loss"} <= each.keys() for each in found)


def test_a_stopped_stage_resumes_to_the_same_bits(run: RunFolder, path: Path, tmp_path: Path) -> None:
    assert stop_after(path, tmp_path, 3) == 75
    again = trained(path, tmp_path)
    assert trace(run, "pair") == trace(again, "pair") and not differing(weights(run, "pair"), weights(again, "pair"))


@pytest.mark.slow
def test_it_is_evaluated_and_exported_without_what_the_losses_added(run: RunFolder, tmp_path: Path) -> None:
    assert any(name.startswith("terms.") for name in weights(run, "pair"))
    assert cli.main(["evaluate", str(run.root)]) == 0
    rows = json.loads((run.root / "evaluate" / "results.json").read_text())
    assert any(row["metric"] == "accuracy:side" for row in rows)
    assert cli.main(["export", str(run.root), "--to", str(tmp_path / "model")]) == 0
    from safetensors.torch import load_file

    names = [name for file in (tmp_path / "model").glob("*.safetensors") for name in load_file(file)]
    assert names and not any("terms" in name for name in names)


@pytest.mark.slow
def test_it_is_rehearsed_and_planned(path: Path, tmp_path: Path) -> None:
    blank = ["data.films.root=''"]
    (stage,) = plan(load(path, blank), tmp_path / "runs", None).stages
    assert {module.name for module in stage.modules} == {
        "encoders.film",
        "text",
        "heads",
        *(f"terms.{n}" for n in PAIR["terms"]),
    }
    assert stage.flops > 0 and not stage.notes
    lines = dry_run(load(path, blank), tmp_path, lambda line: None)
    done = {line.what: line.done for line in lines}
    assert all(done[what] for what in ("data", "stage pair", "evaluate", "export")), done
    assert "resumed bit-identically" in done["stage pair"]
