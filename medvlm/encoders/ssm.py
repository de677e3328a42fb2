"""A state-space encoder of images and volumes: patches are a sequence that Mamba blocks read in both directions (Mamba,
arXiv 2312.00752; Vision Mamba, arXiv 2401.09417, without its class token).

The scan is plain torch, or the kernel of mamba-ssm on a GPU where that is installed.

Axes: N inputs, L tokens, E width, I inner width, S states of a channel.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, Layers, LoadedFile, Masking, Preprocess
from medvlm.core.selective_scan import Direction
from medvlm.core.weights import read_file
from medvlm.encoders._features import select_layers
from medvlm.encoders._masking import choose, choose_layers, find_grid, hide, keep, resize_positions


class Config(EncoderConfig, LoadedFile):
    kind: Literal["ssm"]
    patch: tuple[int, ...]
    """Patch size in pixels or voxels along each axis of preprocess.size."""
    width: int = Field(384, gt=0)
    layers: int = Field(24, gt=0)
    states: int = Field(16, gt=0)
    """States of each channel."""
    expand: int = Field(2, gt=0)
    """Inner width in multiples of the width."""
    convolution: int = Field(4, gt=0)
    """Tokens that the convolution before a scan sees."""
    layer: Layers | None = None
    """By default the output of the network after its norm. -2 is the second to last block."""
    preprocess: Preprocess

    @model_validator(mode="after")
    def _patches_tile_the_input(self) -> Config:
        size = self.preprocess.size
        if len(size) != len(self.patch) or any(n % p for n, p in zip(size, self.patch, strict=True)):
            raise ValueError(f"patch {list(self.patch)} does not tile preprocess.size {list(size)}")
        return self


def scale_down(config: Config) -> Config:
    return config.model_copy(update={"width": 16, "layers": 2, "states": 4, "layer": None})


def facts(config: Config) -> EncoderFacts:
    count = 1 if config.layer is None else len(select_layers(config.layer, config.layers))
    grid = tuple(n // p for n, p in zip(config.preprocess.size, config.patch, strict=True))
    return EncoderFacts(width=config.width * count, grid=grid)


def preprocess(config: Config) -> Preprocess:
    return config.preprocess


def build(config: Config) -> nn.Module:
    return Scanned(config)


def standalone(config: Config, built: nn.Module) -> Config:
    return config.model_copy(update={"weights": ""})


class Scanned(nn.Module):
    """[N, C, *size] -> Features, tokens row-major."""

    can_mask = True

    def __init__(self, config: Config):
        super().__init__()
        self.input_shape, self.patch = config.preprocess.shape, config.patch
        self.width, self.grid = facts(config).width, tuple(facts(config).grid or ())
        self.tower = Tower(config, math.prod(self.grid))
        if config.weights:
            read_file(self.tower, config, "encoders")
        self.layers = () if config.layer is None else select_layers(config.layer, config.layers)

    def forward(self, pixels: torch.Tensor, masking: Masking | None = None) -> Features:
        is_whole, masking = masking is None, masking or Masking()
        grid, tower = find_grid(pixels, self.patch), self.tower
        tokens_NLE = hide(tower.patch_embed(pixels).flatten(2).transpose(1, 2), masking)
        placed_NLE = tokens_NLE + resize_positions(tower.pos_embed, self.grid, grid)
        if is_whole:
            return choose_layers(tower(placed_NLE), grid, self.layers)
        if masking.kept_NK is None:
            return choose(tower(placed_NLE), 0, grid, masking, None)
        # They are read in the order of their places, whatever the order in which they are listed.
        kept_NK, order_NK = masking.kept_NK.to(placed_NLE.device).sort(1)
        states = tower(keep(placed_NLE, replace(masking, kept_NK=kept_NK)))
        back = order_NK.argsort(1)[..., None]
        return choose([each.gather(1, back.expand_as(each)) for each in states], 0, grid, masking, None)


class Tower(nn.Module):
    """Tokens [N, L, E] -> those after each block, the last ones normed."""

    def __init__(self, config: Config, count: int):
        super().__init__()
        make = nn.Conv2d if len(config.patch) == 2 else nn.Conv3d
        self.patch_embed: nn.Module = make(
            config.preprocess.channels, config.width, config.patch, stride=config.patch  # type: ignore[arg-type]
        )  # fmt: skip
        self.pos_embed = nn.Parameter(torch.empty(1, count, config.width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-5)

    def forward(self, tokens_NLE: torch.Tensor) -> list[torch.Tensor]:
        states = []
        for block in self.blocks:
            tokens_NLE = block(tokens_NLE)
            states.append(tokens_NLE)
        return [*states[:-1], self.norm(tokens_NLE)]


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        inner = config.expand * config.width
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.open = nn.Linear(config.width, 2 * inner, bias=False)
        self.forwards, self.backwards = (
            Direction(inner, config.width, config.states, config.convolution) for _ in range(2)
        )
        self.close = nn.Linear(inner, config.width, bias=False)
        with torch.no_grad():
            self.close.weight.div_(math.sqrt(config.layers))

    def forward(self, x_NLE: torch.Tensor) -> torch.Tensor:
        inner_NLI, gate_NLI = self.open(self.norm(x_NLE)).chunk(2, -1)
        read_NLI = self.forwards(inner_NLI) + self.backwards(inner_NLI.flip(1)).flip(1)
        closed: torch.Tensor = self.close(read_NLI * nn.functional.silu(gate_NLI))
        return x_NLE + closed
