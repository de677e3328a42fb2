"""A package that medvlm does not know, through everything, by the command line: only recipes, a card and `plugins` name
its parts. It is copied, so that a part can be taken out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvlm.cli import main
from medvlm.core.config import permit
from medvlm.core.errors import UserError
from medvlm.core.run import RunFolder
from medvlm.core.tasks import find_task
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.recipe.load import load
from medvlm.train.storage import TensorReader
from tests.tiny_run import LANGUAGE, TOWER, cut_off, recipe, trace, written

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
STAGES = ("pair", "instruct", "reason", "outline", "look", "same")
PARTS = {
    "reader": "bars",
    "task": "angle",
    "metric": "circular",
    "reward": "close",
    "encoder": "edges",
    "connector": "gated",
    "objective": "margin",
    "decoder": "tiles",
    "loss of decoders": "tversky",
    "method of pretraining": "twins",
    "composition": "siamese",
    "stage": "byol",
    "protocol": "neighbours",
    "tool": "gauge",
    "export target": "weights",
    "hook": "notes",
}
"""Every part that recipe.yaml needs, by the file that is it."""


def copy_lab(to: Path) -> Path:
    for name in ("mylab", "card.yaml", "recipe.yaml", "ready.yaml"):
        (shutil.copytree if (HERE / name).is_dir() else shutil.copy)(HERE / name, to / name)
    return to


@contextlib.contextmanager
def installed(lab: Path) -> Iterator[None]:
    """The lab's package on the path, of this process and of those that it starts; the lab is the current folder."""
    with pytest.MonkeyPatch.context() as patch:
        forget()
        patch.syspath_prepend(lab)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(lab)]))
        patch.chdir(lab)
        yield
    forget()


def forget() -> None:
    """What was imported of the package."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]
    find_task.cache_clear()


def call(*words: str, expect: int = 0) -> str:
    """What a command prints, mistakes included."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(list(words))
    assert code == expect, said.getvalue()[-4000:]
    return said.getvalue()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = copy_lab(tmp_path_factory.mktemp("lab"))
    with installed(folder):
        yield folder


@pytest.fixture(scope="module")
def whole(lab: Path) -> RunFolder:
    """The recipe, trained without a break."""
    call("train", "recipe.yaml", "name=whole")
    return RunFolder(lab / "runs" / "whole")


# --- all the way ------------------------------------------------------------------------------------------


def test_it_is_validated(lab: Path) -> None:
    said = call("validate", "recipe.yaml")
    assert "encoder film: mylab.edges" in said and "through mylab.gated" in said and "stage same: mylab.byol" in said


def test_it_is_planned(lab: Path) -> None:
    said = call("plan", "recipe.yaml")
    assert all(stage in said for stage in STAGES)


@pytest.mark.slow
def test_it_is_dry_run(lab: Path) -> None:
    said = call("dry-run", "recipe.yaml")
    for stage in STAGES:
        assert f"stage {stage}  2 steps, saved, resumed bit-identically" in said


def test_a_run_that_was_killed_resumes_to_the_last_bit(lab: Path, whole: RunFolder) -> None:
    """Killed in the stage with the second optimizer and the teacher: both go on from the checkpoint."""
    (lab / "cut.yaml").write_text((lab / "recipe.yaml").read_text().replace("name: bars", "name: cut", 1))
    cut_off(lab / "cut.yaml", lab / "runs", "same", 3)
    cut = RunFolder(lab / "runs" / "cut")
    assert [step for step, *_ in trace(cut, "same")] == [1, 2, 3] and not (cut.stage("same") / "stage.json").exists()
    call("train", "cut.yaml")
    for stage in STAGES:
        assert trace(cut, stage) == trace(whole, stage) != []


def test_the_second_optimizer_and_the_teacher_are_in_the_checkpoint(lab: Path, whole: RunFolder) -> None:
    stored = TensorReader(whole.stage("same") / "step-4" / "tensors").stored
    assert {"models.teacher.predictor.0.weight", "optim.predictor.state.predictor.0.weight.exp_avg"} <= set(stored)
    record = json.loads((whole.stage("same") / "stage.json").read_text())
    assert record["trains"].keys() == {"encoders.film", "predictor"}
    assert all(part["moved"] for part in record["trains"].values())


def test_its_hook_saw_every_step_and_the_last_checkpoint(whole: RunFolder) -> None:
    noted = json.loads((whole.root / "losses.json").read_text())
    logged = [json.loads(line) for line in whole.metrics.read_text().splitlines()]
    for stage in STAGES:
        assert noted["losses"][stage] == [each["loss"] for each in logged if each["stage"] == stage]
    assert noted["checkpoint"] == "step-4"


def test_it_is_evaluated_by_its_own_measures_reward_and_protocol(lab: Path, whole: RunFolder) -> None:
    said = call("evaluate", "runs/whole")
    rows = {(row["task"], row["metric"]): row for row in json.loads(whole.results.read_text())}
    assert {"blind", "shuffled", "majority"} == rows["angle", "median_error"]["baselines"].keys()
    assert rows["mylab.lenient", "accuracy"]["value"] >= rows["vqa", "accuracy"]["value"]
    assert "mylab.lenient: the published rule of mylab, unpublished" in said
    assert rows["neighbours", "agrees"]["baselines"].keys() == {"anyone"}
    assert rows["mask", "dice"]["baselines"].keys() == {"shuffled", "majority"}
    assert ("reward", "mylab.close") in rows and ("retrieval", "image_to_text_top1") in rows
    assert "median_error" in said
    records = whole.results.with_name("mylab.neighbours.jsonl").read_text().splitlines()
    assert len(records) == rows["neighbours", "agrees"]["n"]


def test_it_is_reported(lab: Path, whole: RunFolder) -> None:
    call("evaluate", "runs/whole")
    call("report", "runs/whole")
    page = whole.report.read_text()
    assert "Angle: mean score" in page and "neighbours" in page
    assert re.search(r"<dt>truth</dt><dd><bdi>\d+ degrees</bdi>", page), "the task's own drawing"


def test_it_is_exported_with_a_proof(lab: Path, whole: RunFolder) -> None:
    said = call("export", "runs/whole", "--to", "out")
    assert "loads with plain mylab as Edges; parity proven in a fresh process" in said
    record = json.loads((lab / "out" / "medvlm" / "parity.json").read_text())
    assert record["passed"] and record["diffs"].keys() == {"pooled"}
    said = call("export", "runs/whole", "--to", "none", "--target", "custom", expect=2)
    assert "a siamese model has no folder format of medvlm" in said


def test_its_parts_are_in_an_export_that_medvlm_loads(lab: Path, whole: RunFolder) -> None:
    assert "parity proven" in call("export", "runs/whole:reason", "--to", "custom", "--target", "custom")
    assert json.loads((lab / "custom" / "model.json").read_text())["plugins"] == ["mylab"]
    said = call("evaluate", "custom", "--on", "bars:test")
    assert "skipped mylab.neighbours, because the model cannot compare" in said
    rows = json.loads((lab / "custom" / "evaluate" / "results.json").read_text())
    assert {row["task"] for row in rows} == {"vqa", "angle", "reward", "image", "mylab.lenient"}


@pytest.fixture(scope="module")
def ready(lab: Path) -> str:
    """The override that names a ready model of its own family."""
    permit(["mylab"])
    save_tiny("vipllava", lab / "vipllava")
    return f"model.pretrained={lab / 'vipllava'}"


def test_a_ready_model_of_its_own_family_is_planned_and_trained(ready: str) -> None:
    call("plan", "ready.yaml", ready)
    call("train", "ready.yaml", ready)


@pytest.mark.slow
def test_a_ready_model_of_its_own_family_is_dry_run_evaluated_and_exported(ready: str) -> None:
    call("dry-run", "ready.yaml", ready)
    call("train", "ready.yaml", ready)
    call("evaluate", "runs/ready")
    assert "parity proven in a fresh process" in call("export", "runs/ready", "--to", "ready")


# --- without a part, or without leave -----------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_without_one_of_its_parts_the_recipe_is_refused(part: str, tmp_path: Path) -> None:
    lab = copy_lab(tmp_path)
    (lab / "mylab" / f"{PARTS[part]}.py").unlink()
    with installed(lab):
        said = call("validate", "recipe.yaml", expect=2)
    assert f"No module named 'mylab.{PARTS[part]}'" in said and "install the package that holds it" in said


def test_without_its_family_a_ready_model_is_refused(tmp_path: Path) -> None:
    """Known by the config of the model, so that no weights are needed to say it."""
    lab = copy_lab(tmp_path)
    (lab / "mylab" / "families" / "vipllava.py").unlink()
    (lab / "config.json").write_text(json.dumps({"model_type": "vipllava"}))
    with installed(lab):
        said = call("plan", "ready.yaml", f"model.pretrained={lab}", expect=2)
    assert "unknown family 'vipllava'" in said


def test_a_card_names_the_package_of_its_reader(lab: Path, tmp_path: Path) -> None:
    said = call("data", "pack", "card.yaml", "--out", str(tmp_path / "shards"))
    assert "80 samples" in said and "0 quarantined" in said
    card = yaml.safe_load((lab / "card.yaml").read_text())
    del card["plugins"]
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(card))
    said = call("data", "pack", str(tmp_path / "bare.yaml"), "--out", str(tmp_path / "none"), expect=2)
    assert "'mylab.bars' is a plugin's, but 'mylab' is not listed" in said


def encoder(changes: dict[str, Any]) -> dict[str, Any]:
    film = {**TOWER, "connector": {"kind": "mlp"}, **changes}
    return {"model": {"encoders": {"film": film}, "language": {"kind": "causal", "config": LANGUAGE}}}


def stage(number: int, changes: dict[str, Any]) -> dict[str, Any]:
    stages = [dict(each) for each in recipe()["stages"]]
    stages[number] = {**stages[number], **changes}
    return {"stages": stages}


UNLISTED: dict[str, dict[str, Any]] = {
    "encoder": encoder({"kind": "elsewhere.part"}),
    "connector": encoder({"connector": {"kind": "elsewhere.part"}}),
    "language model": {"model": {**recipe()["model"], "language": {"kind": "elsewhere.part"}}},
    "composition": {"model": {**recipe()["model"], "composition": {"kind": "elsewhere.part"}}},
    "decoder": {"model": {**recipe()["model"], "decoders": {"side": {"kind": "elsewhere.part", "classes": ["left"]}}}},
    "text tower": stage(0, {"text": {"kind": "elsewhere.part"}}),
    "objective": stage(0, {"loss": {"kind": "elsewhere.part"}}),
    "method of pretraining": {
        "model": {"encoders": {"film": TOWER}},
        "stages": [
            {
                "name": "look",
                "kind": "ssl",
                "mix": {"films": 1},
                "trains": ["encoders"],
                "steps": 1,
                "loss": {"kind": "elsewhere.part"},
            }
        ],
    },
    "task": stage(1, {"tasks": ["elsewhere.part"]}),
    "reward": stage(2, {"rewards": {"elsewhere.part": 1.0}}),
    "stage": stage(1, {"kind": "elsewhere.part"}),
    "export target": {"export": {"target": "elsewhere.part"}},
    "tool": {"environment": {"tools": [{"kind": "elsewhere.part"}]}},
    "hook": {"hooks": ["elsewhere.part"]},
    "protocol": {"evaluate": {"on": ["films:test"], "protocols": ["elsewhere.part"]}},
}


@pytest.mark.parametrize("slot", UNLISTED)
def test_a_dotted_kind_that_no_plugins_lists_is_refused(slot: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'elsewhere\.part' is a plugin's, but 'elsewhere' is not listed; add"):
        load(written(tmp_path, recipe(**UNLISTED[slot])))
