"""Every encoder with every connector: shapes, gradients, saved weights, and whether facts() agrees with the built
module."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core import config as core_config
from medvlm.core.config import component, kinds
from medvlm.core.contracts import EncoderConfig
from medvlm.core.errors import CheckpointError, ShapeError
from medvlm.models.parts import encode, tokens_of

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE = {"preprocess": {"size": (32, 32)}}
GREY = {"channels": 1, "mean": [0.5], "std": [0.5]}
VIT: dict[str, Any] = {
    "kind": "transformers",
    "config": {"model_type": "vit", **SMALL, "image_size": 32, "patch_size": 8},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "ViT of timm": {
        "kind": "timm",
        "net": "vit_tiny_patch16_224",
        "args": {"depth": 2, "embed_dim": 24, "num_heads": 2},
        **SIZE,
    },
    "oblong ViT of timm": {
        "kind": "timm",
        "net": "vit_tiny_patch16_224",
        "args": {"depth": 1},
        "preprocess": {"size": (32, 64)},
    },
    "CNN of timm": {"kind": "timm", "net": "resnet10t", "preprocess": {"size": (64, 64)}},
    "CNN of one channel": {"kind": "timm", "net": "resnet10t", "preprocess": {"size": (64, 64), "channels": 1}},
    "Swin of timm": {
        "kind": "timm",
        "net": "swin_tiny_patch4_window7_224",
        "args": {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4},
        **SIZE,
    },
    "hybrid of timm": {
        "kind": "timm",
        "net": "vit_tiny_r_s16_p8_224",
        "args": {"depth": 1},
        "preprocess": {"size": (64, 64)},
    },
    "CLIP": {
        "kind": "transformers",
        "config": {"model_type": "clip_vision_model", **SMALL, "image_size": 32, "patch_size": 16},
    },
    "SigLIP": {
        "kind": "transformers",
        "config": {"model_type": "siglip_vision_model", **SMALL, "image_size": 32, "patch_size": 8},
        "layer": -2,
    },
    "Primus": {"kind": "primus", "width": 24, "layers": 2, "heads": 2, "preprocess": {"size": [16, 16, 24], **GREY}},
    "residual encoder of nnU-Net": {
        "kind": "resenc",
        "widths": [4, 6],
        "blocks": [1, 2],
        "layer": [-1],
        "preprocess": {"size": [8, 8, 12], **GREY},
    },
    "MedNeXt of MONAI": {
        "kind": "monai",
        "net": "MedNeXt",
        "args": {
            "init_filters": 4,
            "blocks_down": [1, 1],
            "blocks_bottleneck": 1,
            "blocks_up": [1, 1],
            "kernel_size": 3,
        },
        "preprocess": {"size": [8, 16, 16], **GREY},
    },
    "state space, 2D": {"kind": "ssm", "patch": [8, 8], "width": 16, "layers": 2, "states": 4, **SIZE},
    "state space, 3D": {
        "kind": "ssm",
        "patch": [4, 8, 8],
        "width": 16,
        "layers": 2,
        "states": 4,
        "layer": "all",
        "preprocess": {"size": [8, 16, 16], **GREY},
    },
    "DINOv2": {"kind": "transformers", "config": {"model_type": "dinov2", **SMALL, "image_size": 32, "patch_size": 16}},
    "DINOv2 at another size": {
        "kind": "transformers",
        "config": {"model_type": "dinov2", **SMALL, "image_size": 518, "patch_size": 14},
        "preprocess": {"size": (28, 42)},
    },
    "DINOv2 with registers": {
        "kind": "transformers",
        "config": {"model_type": "dinov2_with_registers", **SMALL, "image_size": 32, "patch_size": 16},
    },
    "SigLIP 2 of variable resolution": {
        "kind": "transformers",
        "config": {"model_type": "siglip2_vision_model", **SMALL, "num_patches": 16, "patch_size": 8},
        "preprocess": {"size": (16, 32)},
    },
    "DINOv3": {
        "kind": "transformers",
        "config": {"model_type": "dinov3_vit", **SMALL, "image_size": 32, "patch_size": 8, "num_register_tokens": 2},
    },
    "ViT, all layers": {
        "kind": "transformers",
        "config": {"model_type": "vit", **SMALL, "image_size": 32, "patch_size": 16},
        "layer": "all",
    },
    "ConvNeXt": {
        "kind": "transformers",
        "config": {"model_type": "convnext", "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "image_size": 64},
    },
    "Swin": {
        "kind": "transformers",
        "config": {
            "model_type": "swin",
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "image_size": 32,
            "window_size": 4,
        },
    },
    "two layers of timm": {
        "kind": "timm",
        "net": "vit_tiny_patch16_224",
        "args": {"depth": 3, "embed_dim": 24, "num_heads": 2},
        "layer": (-1, -3),
        **SIZE,
    },
    "inner stage of timm": {"kind": "timm", "net": "resnet10t", "layer": -2, "preprocess": {"size": (64, 64)}},
    "ViT of MONAI": {
        "kind": "monai",
        "patch": (4, 8, 8),
        "width": 24,
        "layers": 1,
        "heads": 2,
        "preprocess": {"size": (8, 16, 24), **GREY},
    },
    "ViT of MONAI, patches in mm": {
        "kind": "monai",
        "patch_mm": (5, 8, 8),
        "width": 24,
        "layers": 2,
        "heads": 2,
        "layer": "all",
        "preprocess": {"size": (4, 8, 12), "spacing_mm": (2.5, 2, 2), "fit": "crop", **GREY},
    },
    "ViT of RadFM": {
        "kind": "vit3d",
        "patch": (4, 8, 8),
        "width": 24,
        "layers": 2,
        "heads": 2,
        "head_width": 8,
        "mlp_width": 16,
        "positions": (4, 4, 3),
        "preprocess": {"size": (8, 16, 24), **GREY},
    },
    "SwinUNETR": {
        "kind": "monai",
        "net": "SwinUNETR",
        "args": {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 2},
        "preprocess": {"size": (32, 64, 32), **GREY},
    },
    "SegResNet": {"kind": "monai", "net": "SegResNet", "preprocess": {"size": (9, 17, 16), **GREY}},
    "3D ResNet": {
        "kind": "monai",
        "net": "ResNet",
        "depth": 10,
        "args": {"widen_factor": 0.125},
        "preprocess": {"size": (16, 32, 32), **GREY},
    },
    "3D DenseNet": {
        "kind": "monai",
        "net": "DenseNet",
        "args": {"block_config": (1, 1, 1, 1), "init_features": 8, "growth_rate": 4},
        "preprocess": {"size": (32, 32, 64), **GREY},
    },
    "inflated ResNet": {
        "kind": "inflated",
        "net": "resnet10t",
        "args": {"channels": (8, 8, 16, 16), "stem_width": 8},
        "preprocess": {"size": (16, 32, 64), **GREY},
    },
    "slices": {"kind": "slices", "encoder": VIT, "slices": 3, "chunk": 2},
    "one token a slice": {"kind": "slices", "encoder": VIT, "slices": 3, "out": "pooled"},
    "mean of slices": {"kind": "slices", "encoder": VIT, "slices": 3, "out": "mean"},
    "two films": {"kind": "slices", "encoder": VIT, "stack": 2},
    "tiles": {"kind": "slices", "encoder": VIT, "tiles": (1, 2)},
    "fused": {"kind": "fused", "encoders": (VIT, {**VIT, "config": {**VIT["config"], "patch_size": 16}})},
    "fused in sequence": {
        "kind": "fused",
        "encoders": (VIT, {**VIT, "config": {**VIT["config"], "image_size": 24}}),
        "join": "sequence",
    },
    "fused slices": {"kind": "slices", "encoder": {"kind": "fused", "encoders": (VIT, VIT)}, "slices": 2},
    "ResNet by import path": {
        "kind": "imported",
        "path": "torchvision.models.resnet18",
        "module": "layer2",
        "preprocess": {"size": (32, 64)},
    },
    "levels of SAM 2": {
        "kind": "sam_levels",
        "config": {
            "model_type": "sam2_vision_model",
            "backbone_channel_list": [32, 24, 16, 8],
            "fpn_hidden_size": 16,
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [32, 32],
                "blocks_per_stage": [1, 1, 1, 1],
                "embed_dim_per_stage": [8, 16, 24, 32],
                "num_attention_heads_per_stage": [1, 1, 2, 2],
                "window_size_per_stage": [4, 4, 2, 2],
                "global_attention_blocks": [],
            },
        },
        "preprocess": {"size": (32, 32)},
    },
    "pixels": {"kind": "raw_pixels", "preprocess": {"size": (8, 12)}},
}
LEARN = [name for name in ENCODERS if name != "pixels"]
WIDTH = 12


@pytest.fixture(autouse=True)
def permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a recipe with `plugins: [torchvision]` does."""
    monkeypatch.setattr(core_config, "_PERMITTED", {"torchvision"})


def config_of(name: str, connector: str | None = None) -> EncoderConfig:
    made: EncoderConfig = component("encoders", ENCODERS[name]["kind"]).Config.model_validate(
        {**ENCODERS[name], **({"connector": {"kind": connector}} if connector else {})}
    )
    return made


def build_encoder(config: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = component("encoders", config.kind).build(config)
    return model


def test_every_encoder_kind_is_tested_here() -> None:
    assert {c["kind"] for c in ENCODERS.values()} == set(kinds("encoders"))


@pytest.mark.parametrize("name", ENCODERS)
def test_facts_and_preprocess_agree_with_the_built_encoder(name: str) -> None:
    config, kind = config_of(name), component("encoders", ENCODERS[name]["kind"])
    encoder, facts, preprocess = build_encoder(config).eval(), kind.facts(config), kind.preprocess(config)
    pixels = torch.randn(2, *preprocess.shape)
    features = encoder(pixels)
    assert encoder.input_shape == preprocess.shape
    assert features.grid == encoder.grid and features.patches.shape == (2, math.prod(encoder.grid), encoder.width)
    assert features.pooled.shape == (2, encoder.width)
    assert facts.width in (None, encoder.width) and facts.grid in (None, encoder.grid)
    # For timm the grid comes from a build on the meta device; for the others from facts().
    assert tokens_of({name: config_of(name, "linear")}) == {name: math.prod(encoder.grid)}


@pytest.mark.parametrize("name", LEARN)
def test_gradients_reach_the_first_layer_and_shapes_are_the_same_on_meta(name: str) -> None:
    encoder = build_encoder(config_of(name))
    encode(encoder, torch.randn(2, *encoder.input_shape), name).patches.square().sum().backward()
    # The patch embedding or the first convolution.
    first = next(
        p
        for n, p in encoder.named_parameters()
        if p.ndim > 3 or "patch_embedding.weight" in n or n == "tower.project.weight"
    )
    assert first.grad is not None and first.grad.any()
    with torch.device("meta"):
        shapes = component("encoders", ENCODERS[name]["kind"]).build(config_of(name))
    assert (shapes.grid, shapes.width) == (encoder.grid, encoder.width)
    assert {n: p.shape for n, p in shapes.named_parameters()} == {n: p.shape for n, p in encoder.named_parameters()}


@pytest.mark.parametrize("name", LEARN)
def test_saved_weights_give_the_same_features(name: str) -> None:
    one, other = (
        build_encoder(config_of(name)).eval(),
        component("encoders", ENCODERS[name]["kind"]).build(config_of(name)).eval(),
    )
    pixels = torch.randn(1, *one.input_shape)
    assert not torch.equal(one(pixels).patches, other(pixels).patches), (
        "two random initialisations give the same output: the test would pass without loading"
    )
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(pixels).patches, other(pixels).patches) and torch.equal(
        one(pixels).pooled, other(pixels).pooled
    )


@pytest.mark.parametrize(
    "name",
    [
        "ViT of timm",
        "oblong ViT of timm",
        "CLIP",
        "SigLIP",
        "DINOv2 at another size",
        "DINOv2 with registers",
        "DINOv3",
        "SigLIP 2 of variable resolution",
        "ViT, all layers",
        "ViT of MONAI",
        "slices",
        "two films",
        "fused",
    ],
)
def test_patch_tokens_are_in_row_major_order(name: str) -> None:
    """At random initialisation attention mixes little, so changing one patch of the image changes its own token most.
    This would fail if a class token were among the patches."""
    encoder = build_encoder(config_of(name)).eval()
    size, grid = encoder.input_shape[1:], encoder.grid
    patch = [side // n for side, n in zip(size, grid, strict=True)]
    base = torch.zeros(1, *encoder.input_shape)
    before = encoder(base).patches
    for place in {0, math.prod(grid) // 2, math.prod(grid) - 1}:
        at, rest = [], place
        for n in reversed(grid):
            at.append(rest % n)
            rest //= n
        where = tuple(slice(i * p, (i + 1) * p) for i, p in zip(reversed(at), patch, strict=True))
        changed = base.clone()
        changed[(slice(None), slice(None), *where)] = torch.randn(changed[(slice(None), slice(None), *where)].shape)
        moved = (encoder(changed).patches - before).norm(dim=-1)[0]
        assert moved.argmax() == place


LEVELS = {
    "CNN of timm": ((-4, -2, -1), [(64, (16, 16)), (256, (4, 4)), (512, (2, 2))]),
    "ViT of timm": ((-2, -1), [(24, (2, 2)), (24, (2, 2))]),
    "ViT of MONAI, patches in mm": ((-2, -1), [(24, (2, 2, 3))] * 2),
    "SwinUNETR": ((-5, -4, -1), [(12, (16, 32, 16)), (24, (8, 16, 8)), (192, (1, 2, 1))]),
}


@pytest.mark.parametrize("name", LEVELS)
def test_levels_are_the_layers_that_could_be_the_tokens(name: str) -> None:
    layers, expected = LEVELS[name]
    kind, settings = component("encoders", ENCODERS[name]["kind"]), {**ENCODERS[name], "layer": None}
    encoder = build_encoder(kind.Config.model_validate({**settings, "levels": layers})).eval()
    assert list(encoder.levels) == expected
    pixels = torch.randn(2, *encoder.input_shape)
    features = encoder(pixels)
    for layer, level in zip(layers, features.levels, strict=True):
        one = build_encoder(kind.Config.model_validate({**settings, "layer": layer})).eval()
        one.load_state_dict(encoder.state_dict())
        alone = one(pixels)
        torch.testing.assert_close(level, alone.patches.transpose(1, 2).unflatten(2, alone.grid))
    torch.testing.assert_close(features.patches, alone.patches)  # by default, of the last level
    with torch.device("meta"):
        assert kind.build(kind.Config.model_validate({**settings, "levels": layers})).levels == encoder.levels


def test_maps_of_cnn_and_swin_become_tokens_in_row_major_order() -> None:
    for name in ("CNN of one channel", "Swin of timm"):
        encoder = build_encoder(config_of(name)).eval()
        pixels = torch.randn(1, *encoder.input_shape)
        found = encoder.tower.forward_features(pixels)
        rows = found[0].permute(1, 2, 0) if name.startswith("CNN") else found[0]
        expected = torch.stack([rows[y, x] for y in range(encoder.grid[0]) for x in range(encoder.grid[1])])
        assert len(expected) > 1 and torch.equal(encoder(pixels).patches[0], expected)


def test_patch_tokens_are_the_hidden_state_that_stock_llava_uses() -> None:
    """LLaVA's vision_feature_layer -2 with the strategy `default`, which drops CLIP's class token."""
    config = component("encoders", "transformers").Config.model_validate({**ENCODERS["CLIP"], "layer": -2})
    encoder = build_encoder(config).eval()
    pixels = torch.randn(1, 3, 32, 32)
    expected = encoder.tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert torch.equal(encoder(pixels).patches, expected)


# --- weights from files ------------------------------------------------------------------------------


def test_a_tower_is_loaded_from_a_folder_with_weights_and_preprocessing(tmp_path: Path) -> None:
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(0)
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    stock = SiglipModel(
        SiglipConfig(text_config={**SMALL, "vocab_size": 64, "max_position_embeddings": 16}, vision_config=vision)
    ).eval()
    stock.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 32, "width": 32}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]})
    )
    kind = component("encoders", "transformers")
    config = kind.Config(kind="transformers", model=str(tmp_path))
    encoder = kind.build(config).eval()
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(encoder(pixels).pooled, stock.vision_model(pixels).pooler_output)
    assert (kind.facts(config).width, kind.facts(config).grid) == (16, (4, 4))
    assert (kind.preprocess(config).mean, kind.preprocess(config).std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def test_timm_weights_are_read_from_a_file_and_a_missing_key_is_an_error(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = build_encoder(config_of("ViT of timm")).eval()
    weights = source.tower.state_dict()
    kind = component("encoders", "timm")

    def build_from(saved: dict[str, torch.Tensor]) -> nn.Module:
        save_file(saved, tmp_path / "net.safetensors")
        made: nn.Module = kind.build(
            kind.Config.model_validate({**ENCODERS["ViT of timm"], "weights": str(tmp_path / "net.safetensors")})
        )
        return made

    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(build_from(weights).eval()(pixels).patches, source(pixels).patches)
    with pytest.raises(
        CheckpointError,
        match=r"the weights lack cls_token \(1 keys\); if it may start fresh, list it: allow_missing: \[cls_token\]",
    ):
        build_from({n: t for n, t in weights.items() if n != "cls_token"})


# --- what is refused ---------------------------------------------------------------------------------


def refusals() -> Iterator[tuple[dict[str, Any], str]]:
    yield (
        {**ENCODERS["SigLIP"], "preprocess": {"size": (48, 48)}},
        (
            r"this tower takes 32 x 32 pixels, preprocess.size is \[48, 48\]; set both to the same size, or"
            r" interpolate: true"
        ),
    )
    yield {**ENCODERS["CLIP"], "layer": -5}, "layer -5 does not exist: the tower has 2 layers"
    yield (
        {"kind": "transformers", "config": {"model_type": "clip_vision_model", **SMALL}},
        r"the config of this tower has no image size; set preprocess",
    )
    yield (
        {"kind": "timm", "net": "volo_d1_224", "preprocess": {"size": (64, 64)}},
        r"volo_d1_224 gives 17 tokens for \[64, 64\] pixels; expected 0 prefix tokens and a grid of \[4, 4\]",
    )


@pytest.mark.parametrize(("settings", "message"), refusals())
def test_an_input_that_does_not_fit_the_tower_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        build_encoder(component("encoders", settings["kind"]).Config.model_validate(settings))


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("ViT of MONAI", {"patch": (3, 8, 8)}, "does not tile preprocess.size"),
    ("ViT of MONAI", {"preprocess": {"size": (16, 16)}}, r"needs \[depth, height, width\]"),
    ("CLIP", {"model": "openai/clip"}, "either `model`"),
    ("CLIP", {"config": {"hidden_size": 16}}, "model_type is missing"),
])  # fmt: skip
def test_a_contradicting_config_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        component("encoders", ENCODERS[name]["kind"]).Config.model_validate({**ENCODERS[name], **changes})
