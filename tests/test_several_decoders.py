"""Decoders that answer the same question about media of different encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvlm.compositions import encoder, vlm
from medvlm.core.ask import Ask
from tests.test_draws import DRAW, MASKED, MODEL, STRUCTURES
from tests.tiny_run import TOWER, recipe, staged, written


@pytest.mark.parametrize("speaks", [True, False])
def test_the_same_question_about_films_and_volumes_is_answered_by_the_decoder_of_each(
    speaks: bool, tmp_path: Path
) -> None:
    ready = {"size": [24, 32, 32], "channels": 1, "mean": [0.5], "std": [0.5], "window": [-1000, 400]}
    deep = {"kind": "monai", "net": "ViT", "patch": [12, 16, 16], "width": 16, "preprocess": ready}
    deep |= {"layers": 1, "heads": 2}
    own: dict[str, Any] = {"answers": "structures", "classes": STRUCTURES}
    own = {**MODEL["decoders"]["structures"], **own} if speaks else {**own, "kind": "conv_mask", "exclusive": False}
    decoders = {"flat": {**own, "encoder": "film"}, "thick": {**own, "encoder": "volume"}}
    losses = {name: ["dice"] for name in decoders}
    if speaks:
        encoders = {"film": MODEL["encoders"]["film"], "volume": {**deep, "connector": {"kind": "mlp"}}}
        model = {**MODEL, "encoders": encoders, "decoders": decoders}
        fit = {**DRAW, "tasks": ["mask"], "draws": {name: {"losses": each} for name, each in losses.items()}}
    else:
        model = {"encoders": {"film": TOWER, "volume": deep}, "decoders": decoders}
        fit = {**{key: DRAW[key] for key in ("mix", "steps", "batch")}, "name": "draw", "kind": "heads"}
        fit |= {"trains": ["decoders"], "losses": losses}
    reader = {"kind": "phantom", "films": 12, "film_px": 96, "volumes": 12, "masks": True, "volume_size": [24, 24, 24]}
    path = written(
        tmp_path / "recipe",
        recipe(model=model, stages=[fit], export={"target": "custom"}),
        {**MASKED, "media": ["film", "volume"], "reader": reader},
    )
    stage = staged(path, tmp_path / "runs", "draw")
    opened = (vlm if speaks else encoder).open(stage.setup, None, stage.model)
    view = stage.setup.open_source("films", "train", lambda entry: True)
    asks = []
    for sample, files in map(view.read, range(len(view))):
        asks += [Ask(sample, files, q) for q in sample.questions if q.truth.task == "mask"]
    for ask, answer in zip(asks, opened.decode(asks), strict=True):
        assert answer.partition(" ")[0] == {"film": "32x32", "volume": "24x32x32"}[ask.sample.media[0].kind]
    assert len({ask.sample.media[0].kind for ask in asks}) == 2
