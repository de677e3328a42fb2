"""Shapes that do not fit from encoder to connector to language model end `validate` with 2 and say what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from medvlm.cli import EXIT_DONE, EXIT_USER, main

CARD = """\
name: films
title: Films
summary: Made for tests.
licence: {id: CC0-1.0, commercial: true}
access: open
phi: {status: synthetic}
media: [film]
reader: {kind: phantom, films: 4}
"""
TOWER: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 8,
}
SIGLIP: dict[str, Any] = {"kind": "transformers", "config": TOWER}
GREY = {"channels": 1, "mean": [0.5], "std": [0.5]}
VOLUME: dict[str, Any] = {
    "kind": "monai",
    "patch": [4, 8, 8],
    "width": 48,
    "heads": 4,
    "preprocess": {"size": [16, 32, 32], **GREY},
}


def validate(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    encoder: dict[str, Any],
    connector: dict[str, Any],
    language: dict[str, Any] | None = None,
    **stage: Any,
) -> tuple[int, str]:
    recipe = {
        "name": "tiny",
        "data": {"films": {"card": "films.yaml"}},
        "export": {"target": "custom"},
        "model": {
            "encoders": {"film": {**encoder, "connector": connector}},
            "language": {
                "kind": "causal",
                **(language or {"config": {"model_type": "qwen2", "hidden_size": 96, "num_attention_heads": 4}}),
            },
        },
        "stages": [
            {"name": "align", "kind": "supervised", "mix": {"films": 1}, "trains": ["connectors"], "steps": 2, **stage}
        ],
    }
    (folder / "films.yaml").write_text(CARD)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    code = main(["validate", str(folder / "tiny.yaml")])
    read = capsys.readouterr()
    return code, read.err if code else read.out


@pytest.mark.parametrize(
    ("encoder", "connector", "expected"),
    [
        (SIGLIP, {"kind": "mlp"}, "8 x 8 tokens of width 64, serves film; through mlp 64 tokens of width 96"),
        (SIGLIP, {"kind": "pixel_shuffle", "factor": 4}, "through pixel_shuffle 4 tokens of width 96"),
        (
            {"kind": "slices", "encoder": {**SIGLIP, "layer": [-1, -2, -3, -4]}, "stack": 2},
            {"kind": "temporal", "layers": 4, "heads": 4},
            "2 x 8 x 8 tokens of width 256, serves film; through temporal 64 tokens",
        ),
        (
            {"kind": "slices", "encoder": SIGLIP, "tiles": [2, 2]},
            {"kind": "global_query", "heads": 4},
            "5 x 8 x 8 tokens of width 64, serves film; through global_query 64 tokens",
        ),
        (
            {"kind": "transformers", "model": "google/medsiglip-448"},
            {"kind": "pool2d", "to": [16, 16]},
            "32 x 32 tokens of width 1152, serves film; through pool2d 256 tokens of width 96",
        ),
        (
            {"kind": "timm", "net": "resnet50", "preprocess": {"size": [64, 64]}},
            {"kind": "mlp"},
            "tokens not checked (known after building)",
        ),
    ],
)
def test_what_fits_is_shown_and_what_is_not_known_is_not_checked(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    encoder: dict[str, Any],
    connector: dict[str, Any],
    expected: str,
) -> None:
    code, said = validate(tmp_path, capsys, encoder, connector)
    assert code == EXIT_DONE and expected in said


@pytest.mark.parametrize(
    ("encoder", "connector", "language", "stage", "expected"),
    [
        (
            SIGLIP,
            {"kind": "pixel_shuffle", "factor": 3},
            None,
            {},
            "model.encoders.film.connector: factor: 3 does not tile a grid of 8 x 8 tokens; choose one that divides",
        ),
        (
            SIGLIP,
            {"kind": "resampler", "heads": 7},
            None,
            {},
            "model.encoders.film.connector: heads: 7 do not divide the width of 64; choose one of 1, 2, 4, 8, 16, 32",
        ),
        (
            SIGLIP,
            {"kind": "pool3d", "to": [1, 2, 2]},
            None,
            {},
            "model.encoders.film.connector: to: [1, 2, 2] cannot be pooled from a grid of 8 x 8 tokens",
        ),
        (
            SIGLIP,
            {"kind": "temporal"},
            None,
            {},
            (
                "model.encoders.film.connector: compares two images, and the encoder gives a grid of 8 x 8; use encoder"
                " kind `slices` with stack: 2"
            ),
        ),
        (
            {"kind": "slices", "encoder": {**SIGLIP, "layer": [-1, -2]}, "stack": 2},
            {"kind": "temporal", "layers": 12},
            None,
            {},
            "layers: 12 do not divide the encoder's width of 128; say how many layers",
        ),
        (VOLUME, {"kind": "pool3d", "to": [8, 2, 2]}, None, {}, "cannot be pooled from a grid of 4 x 4 x 4 tokens"),
        (
            {**SIGLIP, "preprocess": {"size": [96, 96]}},
            {"kind": "mlp"},
            None,
            {},
            (
                "model.encoders.film: this tower takes 64 x 64 pixels, preprocess.size is [96, 96]; set both to the"
                " same size, or interpolate: true"
            ),
        ),
        (
            {"kind": "transformers", "config": {**TOWER, "num_attention_heads": 5}},
            {"kind": "mlp"},
            None,
            {},
            "model.encoders.film: 5 heads do not divide the tower's width of 64",
        ),
        (
            SIGLIP,
            {"kind": "mlp"},
            {"config": {"model_type": "qwen2", "hidden_size": 96, "num_attention_heads": 5}},
            {},
            "model.language: 5 heads do not divide the width of 96",
        ),
        (
            SIGLIP,
            {"kind": "mlp"},
            None,
            {"max_tokens": 64},
            (
                "stages.align.max_tokens: is 64, but one image of films has 64 tokens; raise it, or choose a"
                " connector that makes fewer"
            ),
        ),
    ],
)
def test_what_cannot_fit_ends_with_2_at_its_key_and_says_what_to_change(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    encoder: dict[str, Any],
    connector: dict[str, Any],
    language: dict[str, Any] | None,
    stage: dict[str, Any],
    expected: str,
) -> None:
    code, said = validate(tmp_path, capsys, encoder, connector, language, **stage)
    assert code == EXIT_USER and expected in said, said
