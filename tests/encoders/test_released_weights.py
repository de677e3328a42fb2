"""Weights of released encoders are read by the keys of their files: tiny tensors under the published names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from medvlm.core.config import component

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
