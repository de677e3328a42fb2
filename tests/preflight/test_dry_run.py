"""`medvlm dry-run`: the whole recipe at toy size, and its output."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from medvlm.cli import main
from medvlm.core.config import kinds
from medvlm.preflight.rehearsal.fake_reward import EXAMPLES, Config, score
from medvlm.preflight.rehearsal.shrink import shrink_config
from medvlm.recipe.known import list_known_models, look_up_model
from medvlm.recipe.load import find_shipped, load
from tests import tiny_run

WHOLE = [path for path in sorted(find_shipped("recipes").rglob("*.yaml")) if path.parent.name != "base"]


@pytest.mark.slow
@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_every_shipped_recipe_runs_dry(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dry-run", str(path), "--runs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "parity proven" in said or not load(path).recipe.stages


@pytest.mark.slow
def test_a_recipe_of_published_models_runs_in_little_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """google/medsiglip-448 and Qwen3, whose weights and data are not on this machine. Films and texts are made up."""
    content = tiny_run.recipe(stages=[{**tiny_run.INSTRUCT, "accumulate": 1}], export={"target": "stock"})
    content["model"]["encoders"]["film"] = {
        "kind": "transformers",
        "model": "google/medsiglip-448",
        "connector": {"kind": "mlp"},
    }
    content["model"]["language"] = {"kind": "causal", "model": "Qwen/Qwen3-4B-Instruct-2507"}
    path = tiny_run.written(tmp_path / "recipe", content, {**tiny_run.CARD, "access": "open"})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert main(["dry-run", str(path), "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "stage instruct  2 steps, saved, resumed bit-identically; trained connectors.film" in said
    assert "parity proven in a fresh process" in said
    assert "weights, tokenizer and chat template of google/medsiglip-448: not checked" in said
    assert not list((tmp_path / "temporary").glob("medvlm-*"))


def test_a_stage_that_cannot_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Adapters on a tower that gets no image. A run would report it after eight steps."""
    stage = {**tiny_run.INSTRUCT, "accumulate": 1, "shows": ["report"], "trains": ["connectors", "lora"]}
    path = tiny_run.written(tmp_path, tiny_run.recipe(stages=[stage]))
    assert main(["dry-run", str(path)]) == 2
    assert "stage instruct: stages.instruct.trains: connectors.film got no gradient" in capsys.readouterr().err


@pytest.mark.parametrize("model", list_known_models())
def test_a_described_model_is_made_small_without_becoming_another(model: str) -> None:
    config = look_up_model(model).config
    small = shrink_config(config)
    assert small["model_type"] == config["model_type"]
    parts = [small, *(v for k, v in small.items() if k.endswith("_config"))]
    assert all(part.get("num_hidden_layers", 2) <= 2 and part.get("hidden_size", 96) <= 96 for part in parts)


def test_the_reward_that_stands_in_is_none_that_a_recipe_finds() -> None:
    assert all(score(text, truth, Config(weight=1)) == value for text, truth, value in EXAMPLES)
    assert "spread" not in kinds("rewards")
