"""Which settings decide a stage, and how the runs of the first release, which hashed all of them, are recognised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvlm.commands.identity import _read_stored, drop_defaults
from medvlm.core.config import Config
from medvlm.core.errors import CheckpointError
from medvlm.core.run import RunFolder
from medvlm.core.stage_config import Optim
from medvlm.recipe.load import load
from tests.fixtures.unpack import unpack
from tests.tiny_run import INSTRUCT, PAIR, SMALL, recipe, trained, written

FIRST, SECOND = "match", "reason"
"""Stages of the old run that were stopped; it goes on with the first."""


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.chdir(unpack(tmp_path))
    return RunFolder(Path("runs/first"))


def resume(*overrides: str, **how: str) -> RunFolder:
    return trained(Path("recipe.yaml"), Path("runs"), *overrides, **how)


def identity_of(run: RunFolder, stage: str) -> str:
    return str(json.loads((run.stage(stage) / "stage.json").read_text())["identity"])


def test_stages_of_the_first_release_are_recognised_also_when_the_recipe_has_been_written_anew(old: RunFolder) -> None:
    before = old.recipe.read_text()
    states = [json.loads(path.read_text()) for path in old.root.glob(f"{FIRST}/step-*/state.json")]
    assert all(len(state["identity"]) == 16 for state in states) and states
    resume(only=FIRST)
    assert identity_of(old, FIRST).startswith("2-") and old.recipe.read_text() != before
    known = json.loads((old.root / "identities.json").read_text())
    assert known[FIRST] == {states[0]["identity"]: identity_of(old, FIRST)} and known.keys() > {FIRST, SECOND}
    resume(only=SECOND)
    assert identity_of(old, SECOND) == next(iter(known[SECOND].values()))


def test_without_the_note_the_recipe_says_nothing_of_them(old: RunFolder) -> None:
    """A control of the test above."""
    resume(only=FIRST)
    (old.root / "identities.json").unlink()
    with pytest.raises(CheckpointError, match=rf"{SECOND}/step-\d was trained with other settings"):
        resume(only=SECOND)


CHANGES = ("stages.match.optim.lr=0.5", "seed=8", "engine.precision=bf16-mixed", "model.boxes.scale=50")


def test_a_changed_setting_is_refused_as_it_was(old: RunFolder) -> None:
    why = rf"{FIRST}/step-\d was trained with other settings, data or starting weights"
    for change in (*CHANGES, CHANGES[0]):  # the last one again, once a recipe with it has been in the folder
        with pytest.raises(CheckpointError, match=why):
            resume(change, only=FIRST)
    resume(only=FIRST)


def test_other_data_are_refused(old: RunFolder) -> None:
    card = yaml.safe_load(Path("card.yaml").read_text())
    Path("card.yaml").write_text(yaml.safe_dump({**card, "reader": {**card["reader"], "films": 15}}))
    content = yaml.safe_load(Path("recipe.yaml").read_text())
    del content["data"]["tiny"]["shards"]
    Path("recipe.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(CheckpointError, match="was trained with other settings, data or starting weights"):
        resume(only=FIRST)


# --- what decides --------------------------------------------------------------------------------------------


class Today(Config):
    kind: str
    width: int = 8
    optim: Optim = Optim()
    names: tuple[str, ...] = ()
    by_name: dict[str, Optim] = {}


class Tomorrow(Today):
    depth: int = 3
    factors: dict[str, float] = {"a": 1.0}


TEXT = {"model_type": "bert", **SMALL, "num_hidden_layers": 1}
GIVEN: dict[str, Any] = {"kind": "x", "optim": {"lr": 0.5}, "by_name": {"b": {"kind": "muon", "lr": 1e-4}}}


def test_a_release_may_add_settings_with_a_default() -> None:
    today = drop_defaults(Today.model_validate(GIVEN))
    assert today == {"kind": "x", "optim": {"lr": 0.5}, "by_name": {"b": {"kind": "muon"}}}
    assert drop_defaults(Tomorrow.model_validate(GIVEN)) == today
    assert drop_defaults(Tomorrow.model_validate({**GIVEN, "depth": 4})) == {**today, "depth": 4}


def test_a_default_that_is_written_down_is_one() -> None:
    assert drop_defaults(Today(kind="x", width=8, optim=Optim(schedule="cosine"))) == {"kind": "x"}


def test_components_of_slots_count_by_what_they_have_beside_their_defaults(tmp_path: Path) -> None:
    stages = [{**PAIR, "width": 128}, {**INSTRUCT, "questions": 1, "weigh": "tokens"}]
    pair, instruct = load(written(tmp_path, recipe(stages=stages))).recipe.stages
    assert drop_defaults(pair)["text"] == {"kind": "transformers", "config": TEXT}
    assert "width" not in drop_defaults(pair) and {"questions", "weigh"}.isdisjoint(drop_defaults(instruct))
    assert drop_defaults(instruct)["lora"] == {"rank": 2, "alpha": 4.0, "dropout": 0.3}


@pytest.mark.parametrize("text", ["[" * 100_000, "[1, 2", "[]", "null", "{}"])
def test_a_damaged_record_has_no_identity_of_an_early_release(text: str, tmp_path: Path) -> None:
    (tmp_path / "step-2").mkdir()
    for name in ("stage.json", "step-2/state.json"):
        (tmp_path / name).write_text(text)
    assert _read_stored(tmp_path) == set()
