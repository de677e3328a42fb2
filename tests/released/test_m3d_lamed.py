"""M3D-LaMed's weights in our parts compute what its paper's code computes, written again here by its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.nn.functional import avg_pool3d, gelu, layer_norm, linear, softmax

from medvlm.core.errors import CheckpointError
from medvlm.data.vocabulary import IMAGE
from medvlm.models.compose import build_vlm
from medvlm.models.restore import load_weights
from medvlm.models.vlm import VLM
from medvlm.recipe.load import find_shipped
from medvlm.recipe.origins import FilesOrigin
from medvlm.recipe.schema import Recipe
from medvlm.released.m3d_lamed import LAYOUTS
from tests.export.conftest import tiny_tokenizer

WIDTH, HEADS, LAYERS, PATCH, SIZE, HIDDEN = 16, 2, 2, (2, 4, 4), (4, 16, 16), 24
TOKENIZER = tiny_tokenizer()
ROWS = len(TOKENIZER)
(LAYOUT,) = LAYOUTS
Published = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def published() -> Published:
    """Every key of the release, and its tensors at toy size."""
    torch.manual_seed(0)
    tower, projector = "model.vision_tower.vision_tower.", "model.mm_projector.projector."
    shapes: dict[str, tuple[int, ...]] = {
        f"{tower}cls_token": (1, 1, WIDTH),
        f"{tower}patch_embedding.position_embeddings": (1, 32, WIDTH),
        f"{tower}patch_embedding.patch_embeddings.1.weight": (WIDTH, 32),
        f"{tower}patch_embedding.patch_embeddings.1.bias": (WIDTH,),
        f"{tower}norm.weight": (WIDTH,),
        f"{tower}norm.bias": (WIDTH,),
        f"{projector}0.weight": (HIDDEN, WIDTH),
        f"{projector}0.bias": (HIDDEN,),
        f"{projector}2.weight": (HIDDEN, HIDDEN),
        f"{projector}2.bias": (HIDDEN,),
        "model.embed_tokens.weight": (ROWS, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (ROWS, HIDDEN),
        "model.seg_module.mask_decoder.iou_token.weight": (1, 4),
        "model.seg_projector.0.weight": (HIDDEN, HIDDEN),
    }
    for i in range(LAYERS):
        block = f"{tower}blocks.{i}."
        shapes |= {
            f"{block}mlp.linear1.weight": (4 * WIDTH, WIDTH),
            f"{block}mlp.linear1.bias": (4 * WIDTH,),
            f"{block}mlp.linear2.weight": (WIDTH, 4 * WIDTH),
            f"{block}mlp.linear2.bias": (WIDTH,),
            f"{block}attn.qkv.weight": (3 * WIDTH, WIDTH),
            f"{block}attn.out_proj.weight": (WIDTH, WIDTH),
            f"{block}attn.out_proj.bias": (WIDTH,),
            **{f"{block}norm{n}.{kind}": (WIDTH,) for n in (1, 2) for kind in ("weight", "bias")},
        }
    made = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    layer = {
        **{f"self_attn.{n}_proj.weight": (HIDDEN, HIDDEN) for n in "qkvo"},
        "mlp.gate_proj.weight": (48, HIDDEN),
        "mlp.up_proj.weight": (48, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, 48),
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
    }
    return made | {f"model.layers.0.{name}": torch.randn(shape) * 0.3 for name, shape in layer.items()}


def build(**more: Any) -> VLM:
    """The model of the shipped recipe, at toy size."""
    section = yaml.safe_load((find_shipped("recipes") / LAYOUT.recipe).read_text())["model"]
    volume = section["encoders"]["volume"]
    volume |= {"patch": PATCH, "width": WIDTH, "layers": LAYERS, "heads": HEADS}
    volume["preprocess"] |= {"size": SIZE}
    volume["connector"]["to"] = [1, 2, 2]
    small = {"hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    section["language"] = {"kind": "causal", "config": {"model_type": "llama", **small}}
    section["encoders"] |= more
    data = {"a": {"card": "a.yaml"}}
    model = Recipe.model_validate({"name": "m3d", "model": section, "data": data, "stages": []}).model
    return build_vlm(model.encoders, model.language, TOKENIZER, IMAGE, seed=1).eval()


def stored(folder: Path, tensors: Published) -> str:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


def put(model: VLM, where: str, modules: set[str]) -> None:
    origin = FilesOrigin(where)
    assert all(origin.holds(module, []) for module in modules)
    load_weights(model, origin.load(model, modules).weights, None, where, modules)


def compute_tower(published: Published, pixels: torch.Tensor) -> torch.Tensor:
    """LaMed's vit.py: patches flattened with the channel last, a class token, blocks, a norm; patch tokens alone."""
    w = {k.removeprefix("model.vision_tower.vision_tower."): t for k, t in published.items()}
    n, c = pixels.shape[:2]
    d, h, v = (side // patch for side, patch in zip(SIZE, PATCH, strict=True))
    blocks = pixels.reshape(n, c, d, PATCH[0], h, PATCH[1], v, PATCH[2]).permute(0, 2, 4, 6, 3, 5, 7, 1)
    flat = blocks.reshape(n, d * h * v, -1)
    x = linear(flat, w["patch_embedding.patch_embeddings.1.weight"], w["patch_embedding.patch_embeddings.1.bias"])
    x = torch.cat([w["cls_token"].expand(n, -1, -1), x + w["patch_embedding.position_embeddings"]], 1)
    for i in range(LAYERS):
        own = {k.removeprefix(f"blocks.{i}."): t for k, t in w.items() if k.startswith(f"blocks.{i}.")}
        q, k, val = (
            linear(layer_norm(x, (WIDTH,), own["norm1.weight"], own["norm1.bias"]), own["attn.qkv.weight"])
            .reshape(n, -1, 3, HEADS, WIDTH // HEADS)
            .permute(2, 0, 3, 1, 4)
        )
        attended = softmax(q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5, -1) @ val
        merged = attended.transpose(1, 2).reshape(n, -1, WIDTH)
        x = x + linear(merged, own["attn.out_proj.weight"], own["attn.out_proj.bias"])
        normed = layer_norm(x, (WIDTH,), own["norm2.weight"], own["norm2.bias"])
        inner = gelu(linear(normed, own["mlp.linear1.weight"], own["mlp.linear1.bias"]))
        x = x + linear(inner, own["mlp.linear2.weight"], own["mlp.linear2.bias"])
    return layer_norm(x, (WIDTH,), w["norm.weight"], w["norm.bias"])[:, 1:]


def compute_projector(published: Published, tokens: torch.Tensor) -> torch.Tensor:
    w = {k.removeprefix("model.mm_projector.projector."): t for k, t in published.items()}
    maps = tokens.transpose(1, 2).reshape(tokens.shape[0], WIDTH, 2, 4, 4)
    pooled = avg_pool3d(maps, 2, 2).flatten(2).transpose(1, 2)
    return linear(gelu(linear(pooled, w["0.weight"], w["0.bias"])), w["2.weight"], w["2.bias"])


def test_the_image_tokens_are_those_of_the_release(published: Published, tmp_path: Path) -> None:
    model = build()
    put(model, stored(tmp_path, published), {"encoders.volume", "connectors.volume", "language"})
    pixels = torch.randn(2, 1, *SIZE)
    with torch.no_grad():
        features = model.encoders["volume"](pixels)
        expected = compute_tower(published, pixels)
        torch.testing.assert_close(features.patches, expected, rtol=1e-5, atol=1e-5)
        found = model.connectors["volume"](features.patches)
        torch.testing.assert_close(found, compute_projector(published, expected), rtol=1e-5, atol=1e-5)
    own = model.language.state_dict()
    assert all(torch.equal(own[name], published[name]) for name in own) and len(own) == 12


def test_every_tensor_has_a_place_or_a_reason(published: Published) -> None:
    frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq"  # only in files of older versions of transformers
    left = [key for key in published if LAYOUT.find_place(key, "volume") is None]
    assert LAYOUT.is_left_out(frequencies) and LAYOUT.find_place(frequencies, "volume") is None
    assert left == ["model.seg_module.mask_decoder.iou_token.weight", "model.seg_projector.0.weight"]
    assert all(LAYOUT.is_left_out(key) for key in left)


def test_a_key_that_the_layout_does_not_have_is_an_error(published: Published, tmp_path: Path) -> None:
    where = stored(tmp_path, {**published, "model.extra.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"model.extra.weight is not known in the layout of M3D-LaMed"):
        put(build(), where, {"language"})


def test_a_missing_tensor_and_another_shape_are_errors(published: Published, tmp_path: Path) -> None:
    lacks = {key: tensor for key, tensor in published.items() if not key.endswith("cls_token")}
    with pytest.raises(CheckpointError, match=r"encoders.volume.tower.cls_token is missing \(1 keys\)"):
        put(build(), stored(tmp_path / "lacks", lacks), {"encoders.volume"})
    name = "model.vision_tower.vision_tower.patch_embedding.patch_embeddings.1.weight"
    where = stored(tmp_path / "wide", {**published, name: torch.zeros(WIDTH, 40)})
    with pytest.raises(
        CheckpointError, match=r"patch_embeddings.weight is \(16, 40\), this model needs \(16, 1, 2, 4, 4\)"
    ):
        put(build(), where, {"encoders.volume"})


def test_one_of_several_encoders_has_to_be_named(published: Published, tmp_path: Path) -> None:
    where = stored(tmp_path, published)
    with pytest.raises(CheckpointError, match=r"M3D-LaMed has one encoder, and the model has film, volume; say which"):
        FilesOrigin(where).load(build(), {"encoders.film", "encoders.volume"})
