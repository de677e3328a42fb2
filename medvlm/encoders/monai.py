"""3D networks of MONAI over volumes."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator
from torch import nn

from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, Preprocess


class Config(EncoderConfig):
    kind: Literal["monai"]
    net: Literal["ViT"] = "ViT"
    patch: tuple[int, int, int]
    """Voxels of the resized volume per token, along depth, height and width."""
    width: int = 128
    layers: int = 4
    heads: int = 4
    preprocess: Preprocess

    @model_validator(mode="after")
    def _patches_tile_the_volume(self) -> Config:
        if len(self.preprocess.size) != 3:
            raise ValueError(f"preprocess.size is {list(self.preprocess.size)}: a 3D encoder needs [depth, height, width]")
        if any(side % p for side, p in zip(self.preprocess.size, self.patch, strict=True)):
            raise ValueError(f"patch {list(self.patch)} does not tile preprocess.size {list(self.preprocess.size)}")
        return self


def facts(config: Config) -> EncoderFacts:
    return EncoderFacts(width=config.width, grid=_grid(config))


def preprocess(config: Config) -> Preprocess:
    return config.preprocess


def build(config: Config) -> nn.Module:
    return Volume(config)


def _grid(config: Config) -> tuple[int, ...]:
    return tuple(side // p for side, p in zip(config.preprocess.size, config.patch, strict=True))


class Volume(nn.Module):
    """[N, C, D, H, W] -> Features, tokens in depth-height-width order."""

    def __init__(self, config: Config):
        super().__init__()
        from monai.networks.nets import ViT

        before = config.preprocess
        self.width, self.grid = config.width, _grid(config)
        self.input_shape = (before.channels, *before.size)
        self.tower = ViT(
            in_channels=before.channels, img_size=before.size, patch_size=config.patch, hidden_size=config.width,
            mlp_dim=4 * config.width, num_layers=config.layers, num_heads=config.heads, proj_type="conv", spatial_dims=3,
        )  # fmt: skip

    def forward(self, pixels_NCDHW: torch.Tensor) -> Features:
        patches, _ = self.tower(pixels_NCDHW)
        return Features(patches, patches.mean(1), self.grid)
