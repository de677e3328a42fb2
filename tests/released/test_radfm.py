"""RadFM's weights in our parts compute what its code computes, written again here by its keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.nn.functional import gelu, layer_norm, linear, softmax

from medvlm.backbones import causal
from medvlm.data.dialogue import TokenSequence
from medvlm.data.rows import collate
from medvlm.data.vocabulary import IMAGE
from medvlm.models.compose import build_vlm
from medvlm.models.restore import load_weights
from medvlm.models.vlm import VLM
from medvlm.recipe.load import find_shipped
from medvlm.recipe.origins import FilesOrigin
from medvlm.recipe.schema import Recipe
from medvlm.released.radfm import LAYOUTS
from tests.export.conftest import tiny_tokenizer

WIDTH, HEADS, HEAD, LAYERS, MLP, QUERIES, HIDDEN = 12, 2, 8, 2, 20, 3, 24
PATCH, SIZE, TABLES = (2, 4, 8), (4, 16, 16), (4, 8, 4)
"""Along depth, height and width."""
(LAYOUT,) = LAYOUTS
Published = dict[str, torch.Tensor]
AROUND = ("<Img>", "</Img>")
SMALL = {"hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """With the placeholder of an image and the words around it as its last tokens, as behind LLaMA's 32,000."""
    made = tiny_tokenizer(causal.Config(kind="causal", config={"model_type": "llama"}, vocabulary=400))
    made.add_special_tokens({"additional_special_tokens": ["<picture>", *AROUND]}, replace_extra_special_tokens=False)
    return made


@pytest.fixture(scope="module")
def published(tokenizer: Any) -> Published:
    """Every key of the release, and its tensors at toy size."""
    torch.manual_seed(0)
    words, inner = len(tokenizer) - 3, HEADS * HEAD
    inside = 3 * PATCH[0] * PATCH[1] * PATCH[2]
    tower, perceiver = "embedding_layer.vision_encoder.", "embedding_layer.perceiver."
    shapes: dict[str, tuple[int, ...]] = {
        "lang_model.model.embed_tokens.weight": (words, HIDDEN),
        "lang_model.model.norm.weight": (HIDDEN,),
        "lang_model.lm_head.weight": (words, HIDDEN),
        "lang_model.model.layers.0.self_attn.rotary_emb.inv_freq": (6,),
        "embedding_layer.figure_token_weight": (2, HIDDEN),
        **list_norm(f"{tower}to_patch_embedding.1", inside),
        **list_linear(f"{tower}to_patch_embedding.2", WIDTH, inside),
        **list_norm(f"{tower}to_patch_embedding.3", WIDTH),
        f"{tower}pos_embedding.row_embed.weight": (TABLES[1], WIDTH // 3),
        f"{tower}pos_embedding.col_embed.weight": (TABLES[2], WIDTH // 3),
        f"{tower}pos_embedding.dep_embed.weight": (TABLES[0], WIDTH // 3),
        f"{perceiver}latents": (QUERIES, WIDTH),
        **list_norm(f"{perceiver}norm", WIDTH),
        **list_linear("embedding_layer.fc", HIDDEN, WIDTH),
        "embedding_layer.bert_model.embeddings.word_embeddings.weight": (4, 8),
        "embedding_layer.bert_projection_fc.weight": (4, 8),
        "embedding_layer.transformer_decoder.norm.weight": (4,),
        "embedding_layer.transformer_decoder_mlp.0.weight": (4, 4),
        "embedding_layer.cls_head.weight": (1, 4),
        "embedding_layer.output_upscaling.0.weight": (4, 2, 2, 2, 2),
    }
    for i in range(LAYERS):
        attention, mlp = f"{tower}transformer.layers.{i}.0.", f"{tower}transformer.layers.{i}.1."
        shapes |= {
            **list_norm(f"{attention}norm", WIDTH),
            f"{attention}fn.to_qkv.weight": (3 * inner, WIDTH),
            **list_linear(f"{attention}fn.to_out.0", WIDTH, inner),
            **list_norm(f"{mlp}norm", WIDTH),
            **list_linear(f"{mlp}fn.net.0", MLP, WIDTH),
            **list_linear(f"{mlp}fn.net.3", WIDTH, MLP),
        }
        attention, mlp = f"{perceiver}layers.{i}.0.", f"{perceiver}layers.{i}.1."
        shapes |= {
            **list_norm(f"{attention}norm_media", WIDTH),
            **list_norm(f"{attention}norm_latents", WIDTH),
            f"{attention}to_q.weight": (inner, WIDTH),
            f"{attention}to_kv.weight": (2 * inner, WIDTH),
            f"{attention}to_out.weight": (WIDTH, inner),
            **list_norm(f"{mlp}0", WIDTH),
            f"{mlp}1.weight": (4 * WIDTH, WIDTH),
            f"{mlp}3.weight": (WIDTH, 4 * WIDTH),
        }
    layer = {
        **{f"self_attn.{n}_proj.weight": (HIDDEN, HIDDEN) for n in "qkvo"},
        "mlp.gate_proj.weight": (48, HIDDEN),
        "mlp.up_proj.weight": (48, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, 48),
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
    }
    shapes |= {f"lang_model.model.layers.0.{name}": shape for name, shape in layer.items()}
    made = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    return made | {"embedding_layer.weight": made["lang_model.model.embed_tokens.weight"].clone()}


def list_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def list_linear(name: str, out: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def build(tokenizer: Any) -> VLM:
    """The model of the shipped recipe, at toy size."""
    section = yaml.safe_load((find_shipped("recipes") / LAYOUT.recipe).read_text())["model"]
    sizes = {"heads": HEADS, "head_width": HEAD, "layers": LAYERS}
    volume = section["encoders"]["volume"]
    volume |= {"patch": PATCH, "width": WIDTH, "mlp_width": MLP, "positions": TABLES, **sizes}
    volume["preprocess"] |= {"size": SIZE}
    volume["connector"] |= {"tokens": QUERIES, **sizes}
    section["language"] |= {"config": {"model_type": "llama", **SMALL}}
    del section["language"]["tokenizer"]
    data = {"a": {"card": "a.yaml"}}
    model = Recipe.model_validate({"name": "radfm", "model": section, "data": data, "stages": []}).model
    return build_vlm(model.encoders, model.language, tokenizer, "<picture>", seed=1).eval()


@pytest.fixture(scope="module")
def model(published: Published, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> VLM:
    folder, modules = tmp_path_factory.mktemp("radfm"), {"encoders.volume", "connectors.volume", "language"}
    save_file(published, folder / "model.safetensors")
    made, origin = build(tokenizer), FilesOrigin(str(folder))
    assert all(origin.holds(module, []) for module in modules)
    load_weights(made, origin.load(made, modules).weights, None, str(folder), modules)
    return made


def normalize(x: torch.Tensor, published: Published, name: str) -> torch.Tensor:
    return layer_norm(x, x.shape[-1:], published[f"{name}.weight"], published[f"{name}.bias"])


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.reshape(*x.shape[:2], HEADS, HEAD).transpose(1, 2) for x in (q, k, v))
    return (softmax(q @ k.transpose(-1, -2) * HEAD**-0.5, -1) @ v).transpose(1, 2).flatten(2)


def compute_tower(published: Published, pixels_NCHWD: torch.Tensor) -> torch.Tensor:
    """vit_3d.py, with its order of axes: tokens run over rows, columns and slices."""
    w = {k.removeprefix("embedding_layer.vision_encoder."): t for k, t in published.items()}
    n, c, *sides = pixels_NCHWD.shape
    p = (PATCH[1], PATCH[2], PATCH[0])
    grid = [side // each for side, each in zip(sides, p, strict=True)]
    cut = pixels_NCHWD.reshape(n, c, grid[0], p[0], grid[1], p[1], grid[2], p[2])
    x = cut.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(n, grid[0] * grid[1] * grid[2], -1)
    x = linear(
        normalize(x, w, "to_patch_embedding.1"), w["to_patch_embedding.2.weight"], w["to_patch_embedding.2.bias"]
    )
    x = normalize(x, w, "to_patch_embedding.3")
    tables = [w[f"pos_embedding.{name}_embed.weight"] for name in ("row", "col", "dep")]
    places = [
        torch.cat([t[(i + 1) * (len(t) // g) - 1] for t, i, g in zip(tables, place, grid, strict=True)])
        for place in torch.cartesian_prod(*(torch.arange(g) for g in grid)).tolist()
    ]
    x = x + torch.stack(places)
    for i in range(LAYERS):
        at, mlp = f"transformer.layers.{i}.0.", f"transformer.layers.{i}.1."
        q, k, v = linear(normalize(x, w, f"{at}norm"), w[f"{at}fn.to_qkv.weight"]).chunk(3, -1)
        x = x + linear(attend(q, k, v), w[f"{at}fn.to_out.0.weight"], w[f"{at}fn.to_out.0.bias"])
        inner = gelu(linear(normalize(x, w, f"{mlp}norm"), w[f"{mlp}fn.net.0.weight"], w[f"{mlp}fn.net.0.bias"]))
        x = x + linear(inner, w[f"{mlp}fn.net.3.weight"], w[f"{mlp}fn.net.3.bias"])
    return x


def compute_perceiver(published: Published, tokens: torch.Tensor) -> torch.Tensor:
    """helpers.py, and the layer to the language model."""
    w = {k.removeprefix("embedding_layer."): t for k, t in published.items()}
    x = w["perceiver.latents"].expand(len(tokens), -1, -1)
    for i in range(LAYERS):
        at, mlp = f"perceiver.layers.{i}.0.", f"perceiver.layers.{i}.1."
        asked = normalize(x, w, f"{at}norm_latents")
        seen = torch.cat([normalize(tokens, w, f"{at}norm_media"), asked], 1)
        k, v = linear(seen, w[f"{at}to_kv.weight"]).chunk(2, -1)
        x = x + linear(attend(linear(asked, w[f"{at}to_q.weight"]), k, v), w[f"{at}to_out.weight"])
        x = x + linear(gelu(linear(normalize(x, w, f"{mlp}0"), w[f"{mlp}1.weight"])), w[f"{mlp}3.weight"])
    return linear(normalize(x, w, "perceiver.norm"), w["fc.weight"], w["fc.bias"])


def test_image_tokens_are_those_of_the_release(published: Published, model: VLM) -> None:
    pixels_NCDHW = torch.randn(2, 3, *SIZE)
    released_NCHWD = pixels_NCDHW.permute(0, 1, 3, 4, 2)
    with torch.no_grad():
        features = model.encoders["volume"](pixels_NCDHW)
        expected = compute_tower(published, released_NCHWD)
        d, h, w = features.grid
        in_our_order = expected.unflatten(1, (h, w, d)).permute(0, 3, 1, 2, 4).flatten(1, 3)
        torch.testing.assert_close(features.patches, in_our_order, rtol=1e-5, atol=1e-5)
        found = model.connectors["volume"](features.patches)
        torch.testing.assert_close(found, compute_perceiver(published, expected), rtol=1e-5, atol=1e-5)


def test_logits_are_those_of_the_release(published: Published, model: VLM, tokenizer: Any) -> None:
    """It looks rows up in one table of its vocabulary, the words around an image, and the image tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words, pixels = len(tokenizer) - 3, torch.randn(3, *SIZE)
    before, after = (tokenizer.convert_tokens_to_ids(word) for word in AROUND)
    asked, said = [5, 9, 7], [11, 12]
    prompt = [1, before, *[model.image_token_id] * QUERIES, after, *asked]
    with torch.no_grad():
        batch = collate([TokenSequence("a", prompt, [(said, 0)], [("volume", pixels)])], {"volume": QUERIES}, 0)
        found = model(batch)["logits_LV"]
        image = compute_perceiver(published, compute_tower(published, pixels[None].permute(0, 1, 3, 4, 2)))[0]
        table = torch.cat(
            [published["embedding_layer.weight"], published["embedding_layer.figure_token_weight"], image]
        )
        rows = [1, words, *range(words + 2, words + 2 + QUERIES), words + 1, *asked, *said]
        language = LlamaForCausalLM(LlamaConfig(**SMALL, vocab_size=words)).eval()
        own = {k.removeprefix("lang_model."): t for k, t in published.items() if k.startswith("lang_model.")}
        own.pop("model.layers.0.self_attn.rotary_emb.inv_freq")
        language.load_state_dict(own)
        expected = language(inputs_embeds=table[rows][None]).logits[0, len(prompt) - 1 : -1]
    torch.testing.assert_close(found[:, :words], expected, rtol=1e-5, atol=1e-5)
    # The release cannot write the new words; here they are about as probable as an average one.
    mean = published["lang_model.lm_head.weight"].mean(0)
    head: Any = model.language.get_output_embeddings()  # type: ignore[operator]
    torch.testing.assert_close(head.weight[words:], mean.expand(3, -1), rtol=0, atol=1e-6)


def test_every_tensor_has_a_place_or_a_reason(published: Published, model: VLM) -> None:
    placed = {key: LAYOUT.find_place(key, "volume") for key in published}
    left = {key.split(".")[1] for key, place in placed.items() if place is None}
    assert left == {
        "weight", "bert_model", "bert_projection_fc", "transformer_decoder", "transformer_decoder_mlp", "cls_head",
        "output_upscaling", "model",
    }  # fmt: skip
    assert all(LAYOUT.is_left_out(key) for key, place in placed.items() if place is None)
    assert {place[0] for place in placed.values() if place} == model.state_dict().keys()


def test_a_volume_that_the_tables_do_not_hold_is_refused() -> None:
    from pydantic import ValidationError

    from medvlm.encoders.vit3d import Config

    sizes: dict[str, Any] = {"kind": "vit3d", "patch": PATCH, "width": WIDTH, "positions": TABLES}
    with pytest.raises(ValidationError, match=r"has \[2, 16, 2\] patches, and `positions` has \[4, 8, 4\] rows"):
        Config(**sizes, preprocess={"size": (4, 64, 16)})
    with pytest.raises(ValidationError, match="expected a multiple of 3"):
        Config(**{**sizes, "width": 16}, preprocess={"size": SIZE})
    assert IMAGE not in AROUND
