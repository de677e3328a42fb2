"""The other process of the parity proof of a checkpoint for nnU-Net: reads it as nnU-Net does, into a Primus that is
made of timm's blocks or a residual encoder of plain functions, and compares it with a reference.

Run by parity.py as `python -m medvlm.export.proof.nnunet_child REFERENCE FOLDER LOADER`. Uses torch and timm only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import avg_pool3d, conv3d, instance_norm, leaky_relu

Found = dict[str, Any]
SHAPES = {"PrimusS": (12, 6), "PrimusB": (12, 12), "PrimusM": (16, 12), "PrimusL": (24, 16)}
"""Layers and heads."""


def main(reference: Path, folder: Path) -> None:
    tensors = torch.load(reference / "reference.pt", weights_only=True)
    with torch.inference_mode():
        result = compare(folder, tensors)
    (reference / "result.json").write_text(json.dumps(result))


def compare(folder: Path, tensors: Found) -> Found:
    """The largest difference of the last tokens, and the keys that nnU-Net would miss or not expect."""
    import timm

    stored = torch.load(folder / "checkpoint.pth", weights_only=True)
    weights, plan = stored["network_weights"], stored["nnssl_adaptation_plan"]
    (seen,) = plan["pretrain_plan"]["configurations"].values()
    if plan["architecture_plans"]["arch_class_name"] == "ResEncL":
        run, wrong = ResEnc(weights, plan), {}
    else:
        run = Primus(weights[f"{plan['keys_to_in_proj'][0]}.weight"], plan, seen["patch_size"]).eval()
        wrong = run.load(weights, plan)
    diffs = []
    for i in range(sum(name.startswith("pixels.") for name in tensors)):
        tokens, wanted = run(tensors[f"pixels.{i}"]), tensors[f"hidden.{i}"]
        diffs.append(float((tokens - wanted).abs().max()) if tokens.shape == wanted.shape else float("inf"))
    return {
        "class": plan["architecture_plans"]["arch_class_name"],
        "loading": wrong,
        "diffs": {"hidden": max(diffs)},
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
    }


class Primus(nn.Module):
    """kernel: of its first convolution. size: of its input."""

    def __init__(self, kernel: torch.Tensor, plan: Found, size: list[int]):
        from timm.models.eva import EvaBlock

        super().__init__()
        width, channels, *patch = kernel.shape
        self.grid = [n // p for n, p in zip(size, patch, strict=True)]
        layers, heads = SHAPES[plan["architecture_plans"]["arch_class_name"]]
        self.head_width = width // heads
        self.stem, self.eva = nn.Module(), nn.Module()
        self.stem.proj = nn.Conv3d(channels, width, (patch[0], patch[1], patch[2]), patch[0])
        self.eva.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1] * self.grid[2], width))
        options: Found = {"swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "init_values": 0.1}
        self.eva.blocks = nn.ModuleList(
            EvaBlock(
                width, heads, qkv_fused=False, mlp_ratio=4 * 2 / 3, num_prefix_tokens=0, norm_layer=nn.LayerNorm,
                **options
            )
            for _ in range(layers)
        )  # fmt: skip
        self.eva.norm = nn.LayerNorm(width)

    def load(self, weights: Found, plan: Found) -> Found:
        """The keys that are missing or unexpected."""
        wrong: dict[str, list[str]] = {"missing_keys": [], "unexpected_keys": []}
        for part, key in ((self.stem, plan["key_to_stem"]), (self.eva, plan["key_to_encoder"])):
            own = {name.removeprefix(f"{key}."): each for name, each in weights.items() if name.startswith(f"{key}.")}
            found = part.load_state_dict(own, strict=False)
            wrong["missing_keys"] += found.missing_keys
            wrong["unexpected_keys"] += found.unexpected_keys
        return wrong

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        from timm.layers.pos_embed_sincos import build_rotary_pos_embed

        turns = build_rotary_pos_embed(
            self.grid, dim=self.head_width * 2 // 3, in_pixels=False, ref_feat_shape=self.grid
        )
        stem, eva = self.get_submodule("stem.proj"), self.get_submodule("eva")
        tokens: torch.Tensor = stem(pixels).flatten(2).transpose(1, 2) + eva.pos_embed
        for block in eva.blocks:  # type: ignore[union-attr]
            tokens = block(tokens, rope=torch.cat(turns, -1))
        normed: torch.Tensor = eva.norm(tokens)  # type: ignore[operator]
        return normed


class ResEnc:
    """Reads each tensor under one of its two names."""

    def __init__(self, weights: Found, plan: Found, blocks: tuple[int, ...] = (1, 3, 4, 6, 6, 6)):
        self.weights, self.blocks = weights, blocks
        self.stem, self.stages = plan["key_to_stem"], plan["key_to_encoder"]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        maps = leaky_relu(self._convolve(pixels, f"{self.stem}.convs.0", 1))
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                name, stride = f"{self.stages}.{stage}.blocks.{block}", 2 if stage and not block else 1
                changed = leaky_relu(self._convolve(maps, f"{name}.conv1", stride))
                skip = avg_pool3d(maps, 2) if stride == 2 else maps
                if found := [key for key in self.weights if key.startswith(f"{name}.skip.") and ".conv." in key]:
                    skip = self._convolve(skip, found[0].rpartition(".conv.")[0], 1)
                maps = leaky_relu(self._convolve(changed, f"{name}.conv2", 1) + skip)
        return maps.flatten(2).transpose(1, 2)

    def _convolve(self, maps: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        own = self.weights
        kernel, bias = own[f"{name}.all_modules.0.weight"], own.get(f"{name}.all_modules.0.bias")
        maps = conv3d(maps, kernel, bias, stride, padding=kernel.shape[-1] // 2)
        return instance_norm(maps, weight=own[f"{name}.norm.weight"], bias=own[f"{name}.norm.bias"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
