"""Lighter forms of a model for a plan."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.models import head
from medvlm.preflight.draft import make_draft
from medvlm.preflight.gpus import parse
from medvlm.preflight.lighter import list_lighter
from medvlm.preflight.memory import weights_of
from medvlm.preflight.plan import plan
from medvlm.preflight.precision import convert_weights
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.recipe.load import load
from tests.test_native_runs import TUNE
from tests.test_native_runs import recipe as recipe_of
from tests.tiny_run import CARD, written


@pytest.mark.parametrize(
    ("changes", "overrides"),
    [
        ({}, ["engine.precision=bf16-mixed", "engine.precision=bf16-mixed and model.quantize=nf4"]),
        ({"engine": {"kind": "zero3"}}, ["engine.precision=bf16-mixed"]),
        ({"stages.0.trains": ["language"], "stages.0.lora": None}, ["engine.precision=bf16-mixed"]),
    ],
)
def test_a_lighter_model_is_offered_where_it_can_be(
    changes: dict[str, Any], overrides: list[str], tmp_path: Path
) -> None:
    """For a ready model with adapters; not for ZeRO-3, nor for a language model that is trained."""
    given = {**recipe_of(save_tiny("qwen3_vl", tmp_path / "model")), "stages": [{**TUNE, "trains": ["lora"]}]}
    given["stages"][0] |= {key.rpartition(".")[2]: v for key, v in changes.items() if key.startswith("stages")}
    given |= {key: value for key, value in changes.items() if not key.startswith("stages")}
    recipe = load(written(tmp_path, given, CARD)).recipe
    with TemporaryDirectory() as folder:
        draft = make_draft(recipe, {}, Path(folder))
    lighter = dict(list_lighter(recipe, draft, 0))
    assert list(lighter) == overrides
    assert all(each.recipe.engine.precision == "bf16-mixed" for each in lighter.values())
    assert [each.recipe.model.quantize for each in lighter.values()] == [None, "nf4"][: len(overrides)]


def test_mixed_precision_holds_frozen_matrices_in_half_the_memory() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(100, 64), nn.Linear(64, 64), nn.Linear(64, 8))
    model[:2].requires_grad_(False)
    convert_weights(model, "bf16-mixed")
    weights = weights_of(model)
    assert (weights.frozen_bytes, weights.trained_bytes) == (2 * (6400 + 4096) + 4 * 64, 4 * (512 + 8))
    convert_weights(model, "bf16-true")
    assert weights_of(model).trained_bytes == 2 * (512 + 8)


@pytest.mark.slow
def test_a_trained_head_that_is_read_in_chunks_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chunks are computed again in the backward pass, in the types of the forward pass."""
    monkeypatch.setattr(head, "CHUNK_BYTES", 1)
    given = recipe_of(
        save_tiny("qwen3_vl", tmp_path / "model"), stages=[{**TUNE, "trains": ["language"], "lora": None}]
    )
    given["engine"]["precision"] = "bf16-mixed"
    stage = plan(load(written(tmp_path, given, CARD)), tmp_path, parse("h100:1")).stages[0]
    assert stage.memory and stage.fits, stage.notes
