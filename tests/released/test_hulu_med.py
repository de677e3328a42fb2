"""Hulu-Med's weights in our parts compute what VideoLLaMA 3's own encoder computes, written again here by its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.nn.functional import gelu, layer_norm, linear, softmax

from medvlm.data.vocabulary import IMAGE
from medvlm.models.compose import build_vlm
from medvlm.models.restore import load_weights
from medvlm.models.vlm import VLM
from medvlm.recipe.load import find_shipped
from medvlm.recipe.origins import FilesOrigin
from medvlm.recipe.schema import Recipe
from medvlm.released.hulu_med import LAYOUTS
from tests.export.conftest import tiny_tokenizer

WIDTH, HEADS, LAYERS, PATCH, ROWS, COLUMNS, HIDDEN = 16, 2, 2, 4, 3, 2, 24
TOKENIZER = tiny_tokenizer()
Published = dict[str, torch.Tensor]


def make_published(wrapper: str) -> Published:
    """Every key of the release, and its tensors at toy size."""
    torch.manual_seed(0)
    tower, vocabulary = f"model.vision_encoder.{wrapper}", len(TOKENIZER)
    shapes: dict[str, tuple[int, ...]] = {
        f"{tower}embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        f"{tower}embeddings.patch_embedding.bias": (WIDTH,),
        f"{tower}post_layernorm.weight": (WIDTH,),
        f"{tower}post_layernorm.bias": (WIDTH,),
        "model.mm_projector.readout.0.weight": (HIDDEN, WIDTH),
        "model.mm_projector.readout.0.bias": (HIDDEN,),
        "model.mm_projector.readout.2.weight": (HIDDEN, HIDDEN),
        "model.mm_projector.readout.2.bias": (HIDDEN,),
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (vocabulary, HIDDEN),
    }
    for i in range(LAYERS):
        layer = f"{tower}encoder.layers.{i}."
        for name in "qkv":
            shapes |= {
                f"{layer}self_attn.{name}_proj.weight": (WIDTH, WIDTH),
                f"{layer}self_attn.{name}_proj.bias": (WIDTH,),
            }
        shapes |= {
            f"{layer}self_attn.out_proj.weight": (WIDTH, WIDTH),
            f"{layer}self_attn.out_proj.bias": (WIDTH,),
            f"{layer}mlp.fc1.weight": (32, WIDTH),
            f"{layer}mlp.fc1.bias": (32,),
            f"{layer}mlp.fc2.weight": (WIDTH, 32),
            f"{layer}mlp.fc2.bias": (WIDTH,),
            **{f"{layer}layer_norm{n}.{kind}": (WIDTH,) for n in (1, 2) for kind in ("weight", "bias")},
        }
    block = "model.layers.0."
    shapes |= {
        **{f"{block}self_attn.{n}_proj.weight": (HIDDEN, HIDDEN) for n in "qkvo"},
        **{f"{block}self_attn.{n}_proj.bias": (HIDDEN,) for n in "qkv"},
        f"{block}mlp.gate_proj.weight": (48, HIDDEN),
        f"{block}mlp.up_proj.weight": (48, HIDDEN),
        f"{block}mlp.down_proj.weight": (HIDDEN, 48),
        f"{block}input_layernorm.weight": (HIDDEN,),
        f"{block}post_attention_layernorm.weight": (HIDDEN,),
    }
    return {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}


def build() -> VLM:
    """The model of the shipped recipe, at toy size."""
    section = yaml.safe_load((find_shipped("recipes") / LAYOUTS[0].recipe).read_text())["model"]
    film = section["encoders"]["film"]
    film["config"] |= {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": LAYERS}
    film["config"] |= {"num_attention_heads": HEADS, "patch_size": PATCH}
    film["preprocess"] = {"size": [ROWS * PATCH, COLUMNS * PATCH]}
    small = {"hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    section["language"] = {"kind": "causal", "config": {"model_type": "qwen2", **small, "num_key_value_heads": 2}}
    data = {"a": {"card": "a.yaml"}}
    model: Any = Recipe.model_validate({"name": "hulu", "model": section, "data": data, "stages": []}).model
    return build_vlm(model.encoders, model.language, TOKENIZER, IMAGE, seed=1).eval()


def turn(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions of rows and columns: [heads, tokens, width of a head]. Frequencies of the row are the first
    half, those of the column the second; both halves of a head are turned alike."""
    half = x.shape[-1] // 2
    rates = 1 / 10000 ** (torch.arange(0, half, 2).float() / half)
    at = torch.tensor([(row, column) for row in range(ROWS) for column in range(COLUMNS)]).float()
    angles = (at[:, :, None] * rates).flatten(1)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1)


def compute_tower(published: Published, wrapper: str, picture: torch.Tensor) -> torch.Tensor:
    """modeling_videollama3_encoder.py, for one picture [3, height, width] whose patches stay apart."""
    w = {key.removeprefix(f"model.vision_encoder.{wrapper}"): tensor for key, tensor in published.items()}
    kernel, bias = w["embeddings.patch_embedding.weight"].flatten(1), w["embeddings.patch_embedding.bias"]
    x = torch.stack(
        [
            kernel @ picture[:, r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH].flatten() + bias
            for r in range(ROWS)
            for c in range(COLUMNS)
        ]
    )
    for i in range(LAYERS):
        own = {k.removeprefix(f"encoder.layers.{i}."): t for k, t in w.items() if k.startswith(f"encoder.layers.{i}.")}

        def apply(name: str, x: torch.Tensor, own: Published = own) -> torch.Tensor:
            return linear(x, own[f"{name}.weight"], own[f"{name}.bias"])

        normed = layer_norm(x, (WIDTH,), own["layer_norm1.weight"], own["layer_norm1.bias"], 1e-6)
        q, k, v = (apply(f"self_attn.{n}_proj", normed).unflatten(1, (HEADS, -1)).transpose(0, 1) for n in "qkv")
        attended = softmax(turn(q) @ turn(k).transpose(1, 2) * (WIDTH // HEADS) ** -0.5, -1) @ v
        x = x + apply("self_attn.out_proj", attended.transpose(0, 1).flatten(1))
        normed = layer_norm(x, (WIDTH,), own["layer_norm2.weight"], own["layer_norm2.bias"], 1e-6)
        x = x + apply("mlp.fc2", gelu(apply("mlp.fc1", normed), approximate="tanh"))
    return layer_norm(x, (WIDTH,), w["post_layernorm.weight"], w["post_layernorm.bias"], 1e-6)


@pytest.mark.parametrize("wrapper", ["", "vision_encoder."], ids=["published", "training code"])
def test_the_image_tokens_are_those_of_the_release(wrapper: str, tmp_path: Path) -> None:
    published, model = make_published(wrapper), build()
    save_file(published, tmp_path / "model.safetensors")
    origin, modules = FilesOrigin(str(tmp_path)), {"encoders.film", "connectors.film", "language"}
    assert all(origin.holds(module, []) for module in modules)
    load_weights(model, origin.load(model, modules).weights, None, "hulu", modules)
    pictures = torch.randn(2, 3, ROWS * PATCH, COLUMNS * PATCH)
    with torch.no_grad():
        features = model.encoders["film"](pictures)
        expected = torch.stack([compute_tower(published, wrapper, picture) for picture in pictures])
        assert features.grid == (ROWS, COLUMNS)
        torch.testing.assert_close(features.patches, expected, rtol=1e-5, atol=1e-5)
        w = {k.removeprefix("model.mm_projector.readout."): t for k, t in published.items()}
        tokens = linear(gelu(linear(expected, w["0.weight"], w["0.bias"])), w["2.weight"], w["2.bias"])
        torch.testing.assert_close(model.connectors["film"](features.patches), tokens, rtol=1e-5, atol=1e-5)
    own = model.language.state_dict()
    assert all(torch.equal(own[name], published[name]) for name in own) and len(own) == 15
