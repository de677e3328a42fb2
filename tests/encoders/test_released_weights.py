"""Weights of released encoders are read by the keys of their files: tiny tensors under the published names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from medvlm.core.config import component
from medvlm.core.errors import CheckpointError

PAIR = ("weight", "bias")
TIMM_BLOCK = [
    f"{part}.{key}" for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2") for key in PAIR
]
TIMM_REST = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias")
SCALES = ("ls1.gamma", "ls2.gamma")
TINY = {"depth": 2, "embed_dim": 24, "num_heads": 2}
SIZE = {"size": [32, 32]}


def name_vit(prefix: str, block: Iterable[str] = TIMM_BLOCK) -> list[str]:
    return [f"{prefix}{name}" for name in TIMM_REST] + [f"{prefix}blocks.{n}.{name}" for n in (0, 1) for name in block]


RELEASES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    # name -> encoder, its keys in the release, further keys of the release
    "DINOv2 (facebookresearch)": (
        {"kind": "timm", "net": "vit_small_patch14_dinov2", "pool": "class", "args": {**TINY, "img_size": 28},
         "preprocess": {"size": [28, 28]}, "allow_unexpected": ["mask_token"]},
        name_vit("", (*TIMM_BLOCK, *SCALES)), ["mask_token"],
    ),
    "UNI": (
        {"kind": "timm", "net": "vit_large_patch16_224", "pool": "class",
         "args": {**TINY, "init_values": 1.0e-5, "dynamic_img_size": True, "img_size": 32}, "preprocess": SIZE},
        name_vit("", (*TIMM_BLOCK, *SCALES)), [],
    ),
    "BiomedCLIP": (
        {"kind": "timm", "net": "vit_base_patch16_224", "args": TINY, "preprocess": SIZE, "prefix": "visual.trunk."},
        name_vit("visual.trunk."), ["visual.head.proj.weight", "text.proj.0.weight", "logit_scale"],
    ),
    "CONCH": (
        {"kind": "timm", "net": "vit_base_patch16_224", "args": TINY, "preprocess": SIZE, "prefix": "visual.trunk."},
        name_vit("visual.trunk."), ["visual.attn_pool_contrast.query", "visual.proj_contrast", "text.cls_emb"],
    ),
    "DINOv3 (timm)": (
        {"kind": "timm", "net": "vit_small_patch16_dinov3", "pool": "class", "args": {**TINY, "img_size": 32},
         "preprocess": SIZE},
        [*(f"blocks.{n}.{name}" for n in (0, 1) for name in TIMM_BLOCK if name != "attn.qkv.bias"),
         *(f"blocks.{n}.gamma_{part}" for n in (0, 1) for part in (1, 2)),
         *(name for name in TIMM_REST if name != "pos_embed"), "reg_token"], [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASES)
def test_the_keys_of_a_release_fill_the_encoder(name: str, tmp_path: Path) -> None:
    settings, keys, others = RELEASES[name]
    kind = component("encoders", settings["kind"])
    torch.manual_seed(0)
    shapes = {
        key: tensor.shape for key, tensor in kind.build(kind.Config.model_validate(settings)).tower.state_dict().items()
    }
    prefix = settings.get("prefix", "")
    assert {key.removeprefix(prefix) for key in keys} == shapes.keys(), "our network has other keys than the release"
    stored = {key: torch.randn(shapes[key.removeprefix(prefix)]) for key in keys}
    save_file({**stored, **{key: torch.zeros(2) for key in others}}, tmp_path / "release.safetensors")
    given = {**settings, "weights": str(tmp_path / "release.safetensors")}
    made = kind.build(kind.Config.model_validate(given)).tower.state_dict()
    assert all(torch.equal(made[key.removeprefix(prefix)], tensor) for key, tensor in stored.items())


# --- towers of transformers: the folder as it is published, tiny -------------------------------------

WIDTH, WIDER = 24, 48


def name_layers(prefix: str, layer: dict[str, tuple[int, ...]], count: int = 2) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}{n}.{name}": shape for n in range(count) for name, shape in layer.items()}


def linear(*names: str, wide: int = WIDTH, narrow: int = WIDTH, bias: bool = True) -> dict[str, tuple[int, ...]]:
    made: dict[str, tuple[int, ...]] = {f"{name}.weight": (wide, narrow) for name in names}
    return made | ({f"{name}.bias": (wide,) for name in names} if bias else {})


def vectors(*names: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{key}": (WIDTH,) for name in names for key in PAIR}


DINOV2 = {
    "embeddings.cls_token": (1, 1, WIDTH), "embeddings.mask_token": (1, WIDTH),
    "embeddings.position_embeddings": (1, 1 + 4, WIDTH),
    "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, 14, 14),
    "embeddings.patch_embeddings.projection.bias": (WIDTH,),
    **name_layers("encoder.layer.", {
        **vectors("norm1", "norm2"),
        **linear(*(f"attention.attention.{part}" for part in ("query", "key", "value")), "attention.output.dense"),
        **linear("mlp.fc1", wide=WIDER), **linear("mlp.fc2", narrow=WIDER),
        "layer_scale1.lambda1": (WIDTH,), "layer_scale2.lambda1": (WIDTH,),
    }),
    **vectors("layernorm"),
}  # fmt: skip
DINOV3 = {
    "embeddings.cls_token": (1, 1, WIDTH), "embeddings.mask_token": (1, 1, WIDTH),
    "embeddings.register_tokens": (1, 4, WIDTH),
    "embeddings.patch_embeddings.weight": (WIDTH, 3, 16, 16), "embeddings.patch_embeddings.bias": (WIDTH,),
    **name_layers("layer.", {
        **vectors("norm1", "norm2"),
        **linear("attention.q_proj", "attention.v_proj", "attention.o_proj"),
        **linear("attention.k_proj", bias=False),
        **linear("mlp.up_proj", wide=WIDER), **linear("mlp.down_proj", narrow=WIDER),
        "layer_scale1.lambda1": (WIDTH,), "layer_scale2.lambda1": (WIDTH,),
    }),
    **vectors("norm"),
}  # fmt: skip
SIGLIP_LAYER = {
    **vectors("layer_norm1", "layer_norm2"),
    **linear(*(f"self_attn.{part}_proj" for part in ("k", "v", "q", "out"))),
    **linear("mlp.fc1", wide=WIDER), **linear("mlp.fc2", narrow=WIDER),
}  # fmt: skip
SIGLIP_VISION = {
    "vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, 14, 14),
    "vision_model.embeddings.patch_embedding.bias": (WIDTH,),
    "vision_model.embeddings.position_embedding.weight": (4, WIDTH),
    **name_layers("vision_model.encoder.layers.", SIGLIP_LAYER),
    **vectors("vision_model.post_layernorm", "vision_model.head.layernorm"),
    "vision_model.head.probe": (1, 1, WIDTH),
    "vision_model.head.attention.in_proj_weight": (3 * WIDTH, WIDTH),
    "vision_model.head.attention.in_proj_bias": (3 * WIDTH,),
    **linear("vision_model.head.attention.out_proj"),
    **linear("vision_model.head.mlp.fc1", wide=WIDER), **linear("vision_model.head.mlp.fc2", narrow=WIDER),
}  # fmt: skip
SIGLIP_TEXT = {
    "text_model.embeddings.token_embedding.weight": (8, WIDTH),
    "text_model.embeddings.position_embedding.weight": (64, WIDTH),
    **name_layers("text_model.encoder.layers.", SIGLIP_LAYER),
    **vectors("text_model.final_layer_norm"), **linear("text_model.head"),
    "logit_scale": (1,), "logit_bias": (1,),
}  # fmt: skip
SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
SIGLIP_SHAPE = {**SHAPE, "intermediate_size": WIDER}
CLIP = {"do_center_crop": True, "do_resize": True, "image_mean": [0.5307] * 3, "image_std": [0.2583] * 3}
FOLDERS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, tuple[int, ...]], dict[str, str]]] = {
    # name -> config.json, preprocessor_config.json, tensors of the vision tower, and how transformers names them now
    "RAD-DINO": (
        {"architectures": ["Dinov2Model"], "model_type": "dinov2", **SHAPE, "image_size": 28, "patch_size": 14,
         "mlp_ratio": 2, "qkv_bias": True, "layerscale_value": 1.0, "use_swiglu_ffn": False, "torch_dtype": "float32"},
        {**CLIP, "crop_size": {"height": 28, "width": 28}, "size": {"shortest_edge": 28},
         "image_processor_type": "BitImageProcessor"},
        DINOV2, {"attention.attention.query": "attention.q_proj", "attention.attention.key": "attention.k_proj",
                 "attention.attention.value": "attention.v_proj", "attention.output.dense": "attention.o_proj"},
    ),
    "DINOv3": (
        {"architectures": ["DINOv3ViTModel"], "model_type": "dinov3_vit", **SHAPE, "intermediate_size": WIDER,
         "image_size": 32, "patch_size": 16, "num_register_tokens": 4, "rope_theta": 100.0, "key_bias": False},
        {"do_resize": True, "size": {"height": 32, "width": 32}, "image_mean": [0.485, 0.456, 0.406],
         "image_std": [0.229, 0.224, 0.225], "image_processor_type": "DINOv3ViTImageProcessorFast"},
        DINOV3, {"layer.": "model.layer."},
    ),
    "MedSigLIP": (
        {"architectures": ["SiglipModel"], "model_type": "siglip",
         "vision_config": {**SIGLIP_SHAPE, "image_size": 28, "patch_size": 14, "model_type": "siglip_vision_model"},
         "text_config": {**SIGLIP_SHAPE, "vocab_size": 8, "max_position_embeddings": 64, "projection_size": WIDTH,
                         "bos_token_id": 1, "eos_token_id": 2, "model_type": "siglip_text_model"}},
        {"do_resize": True, "size": {"height": 28, "width": 28}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
         "image_processor_type": "SiglipImageProcessor"},
        SIGLIP_VISION, {"vision_model.": ""},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_published_folder_fills_the_tower_and_says_how_images_are_prepared(name: str, tmp_path: Path) -> None:
    config, processor, shapes, renamed = FOLDERS[name]
    torch.manual_seed(0)
    others = SIGLIP_TEXT if "vision_config" in config else {}
    stored = {key: torch.randn(shape) for key, shape in {**shapes, **others}.items()}
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    kind = component("encoders", "transformers")
    settings = kind.Config.model_validate({"kind": "transformers", "model": str(tmp_path)})
    encoder = kind.build(settings)
    made = encoder.tower.state_dict()
    expected = {rename(key, renamed): stored[key] for key in shapes}
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[key], tensor) for key, tensor in expected.items())
    before = kind.preprocess(settings)
    assert list(before.mean) == processor["image_mean"] and list(before.std) == processor["image_std"]
    assert before.fit == ("crop" if processor.get("do_center_crop") else "squash")
    with torch.no_grad():
        found = encoder(torch.randn(1, *before.shape))
    assert found.grid == (2, 2) and found.patches.shape == (1, 4, WIDTH)
    # A file that lacks a key is refused by that key.
    lost = next(iter(shapes))
    save_file({k: t for k, t in stored.items() if k != lost}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=lost.rpartition(".")[2]):
        kind.build(settings)


def rename(key: str, renamed: dict[str, str]) -> str:
    for old, new in renamed.items():
        key = new + key.removeprefix(old) if key.startswith(old) else key.replace(f".{old}.", f".{new}.")
    return key


# --- VoCo and VoComni: MONAI's SwinUNETR with its decoder --------------------------------------------


def name_swin() -> dict[str, tuple[int, ...]]:
    """The tensors of the encoding half in a checkpoint of VoComni, of a tenth of its width."""
    found: dict[str, tuple[int, ...]] = {"patch_embed.proj.weight": (12, 1, 2, 2, 2), "patch_embed.proj.bias": (12,)}
    for stage, heads in enumerate((3, 6, 12, 24), 1):
        width = 12 * 2 ** (stage - 1)
        block = {
            **{f"{norm}.{key}": (width,) for norm in ("norm1", "norm2") for key in PAIR},
            "attn.relative_position_bias_table": (13**3, heads),
            "attn.relative_position_index": (7**3, 7**3),
            **linear("attn.qkv", wide=3 * width, narrow=width), **linear("attn.proj", wide=width, narrow=width),
            **linear("mlp.linear1", wide=4 * width, narrow=width),
            **linear("mlp.linear2", wide=width, narrow=4 * width),
        }  # fmt: skip
        found |= name_layers(f"layers{stage}.0.blocks.", block)
        found |= linear(f"layers{stage}.0.downsample.reduction", wide=2 * width, narrow=8 * width, bias=False)
        found |= {f"layers{stage}.0.downsample.norm.{key}": (8 * width,) for key in PAIR}
        found |= {f"layers{stage}c.0.layer.conv{n}.conv.weight": (width, width, 3, 3, 3) for n in (1, 2)}
    return found


def test_the_swin_transformer_of_vocomni_is_read_from_its_whole_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shapes = name_swin()
    stored = {f"swinViT.{key}": torch.randn(shape) for key, shape in shapes.items()}
    index = "attn.relative_position_index"
    stored |= {key: torch.zeros(tensor.shape, dtype=torch.int64) for key, tensor in stored.items() if index in key}
    rest = ("encoder1.layer.conv1.conv.weight", "encoder10.layer.conv2.conv.weight", "decoder5.transp_conv.conv.weight",
            "decoder1.conv_block.conv3.conv.weight", "out.conv.conv.weight", "out.conv.conv.bias")  # fmt: skip
    save_file({**stored, **{key: torch.zeros(2) for key in rest}}, tmp_path / "VoComni_B.safetensors")
    kind = component("encoders", "monai")
    settings = {
        "kind": "monai", "net": "SwinUNETR", "args": {"feature_size": 12, "use_v2": True},
        "preprocess": {"size": [32, 32, 32], "channels": 1, "mean": [0.0], "std": [1.0]},
        "weights": str(tmp_path / "VoComni_B.safetensors"), "prefix": "swinViT.",
    }  # fmt: skip
    made = kind.build(kind.Config.model_validate(settings)).tower.state_dict()
    assert made.keys() == shapes.keys()
    assert all(torch.equal(tensor, stored[f"swinViT.{key}"]) for key, tensor in made.items())
