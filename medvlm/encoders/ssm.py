"""A state-space encoder of images and volumes: patches are a sequence that Mamba blocks read in both directions (Mamba,
arXiv 2312.00752; Vision Mamba, arXiv 2401.09417, without its class token).

The scan is plain torch.

Axes: N inputs, L tokens, E width, I inner width, S states of a channel.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import softplus

from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, Layers, LoadedFile, Masking, Preprocess
from medvlm.core.weights import read_file
from medvlm.encoders._features import select_layers
from medvlm.encoders._masking import choose, choose_layers, find_grid, hide, keep, resize_positions

CHUNK = 32
"""Tokens that are scanned at once. Memory of the backward pass grows with its logarithm."""
STEPS = (0.001, 0.1)
"""Range of the first step sizes, section 3.6 of Mamba."""


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
        self.forwards, self.backwards = Direction(config, inner), Direction(config, inner)
        self.close = nn.Linear(inner, config.width, bias=False)
        with torch.no_grad():
            self.close.weight.div_(math.sqrt(config.layers))

    def forward(self, x_NLE: torch.Tensor) -> torch.Tensor:
        inner_NLI, gate_NLI = self.open(self.norm(x_NLE)).chunk(2, -1)
        read_NLI = self.forwards(inner_NLI) + self.backwards(inner_NLI.flip(1)).flip(1)
        closed: torch.Tensor = self.close(read_NLI * nn.functional.silu(gate_NLI))
        return x_NLE + closed


class Direction(nn.Module):
    """One reading of a sequence [N, L, I]: convolution, and a scan whose steps and matrices depend on the token."""

    def __init__(self, config: Config, inner: int):
        super().__init__()
        self.states, self.rank = config.states, max(1, math.ceil(config.width / 16))
        self.convolution = nn.Conv1d(inner, inner, config.convolution, groups=inner, padding=config.convolution - 1)
        self.select = nn.Linear(inner, self.rank + 2 * config.states, bias=False)
        self.steps = nn.Linear(self.rank, inner)
        self.log_decay = nn.Parameter(torch.arange(1.0, config.states + 1).log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        low, high = map(math.log, STEPS)
        first = torch.exp(torch.rand(inner) * (high - low) + low)
        nn.init.uniform_(self.steps.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():
            self.steps.bias.copy_(first + torch.log(-torch.expm1(-first)))  # softplus gives `first`

    def forward(self, x_NLI: torch.Tensor) -> torch.Tensor:
        seen_NLI = self.convolution(x_NLI.transpose(1, 2))[..., : x_NLI.shape[1]].transpose(1, 2)
        seen_NLI = nn.functional.silu(seen_NLI)
        low, into_NLS, out_NLS = self.select(seen_NLI).split((self.rank, self.states, self.states), -1)
        step_NLI = softplus(self.steps(low))
        return scan(seen_NLI, step_NLI, -self.log_decay.exp(), into_NLS, out_NLS, self.skip)


def scan(
    x_NLI: torch.Tensor,
    step_NLI: torch.Tensor,
    decay_IS: torch.Tensor,
    into_NLS: torch.Tensor,
    out_NLS: torch.Tensor,
    skip_I: torch.Tensor,
) -> torch.Tensor:
    """The selective scan [N, L, I] (Mamba, equation 2 and algorithm 2): h_t = exp(step decay) h_t-1 + step into_t x_t,
    y_t = out_t h_t + skip x_t. Computed in float32 at least."""
    kind = torch.promote_types(x_NLI.dtype, torch.float32)
    x, step, into, out = (each.to(kind) for each in (x_NLI, step_NLI, into_NLS, out_NLS))
    carried: torch.Tensor | None = None
    read = []
    for start in range(0, x.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        kept = torch.exp(step[:, part, :, None] * decay_IS.to(kind))
        added = (step[:, part] * x[:, part])[..., None] * into[:, part, None]
        kept, added = _accumulate(kept, added)
        states = added if carried is None else added + kept * carried[:, None]
        carried = states[:, -1]
        read.append((states * out[:, part, None]).sum(-1))
    return (torch.cat(read, 1) + x * skip_I.to(kind)).to(x_NLI.dtype)


def _accumulate(kept: torch.Tensor, added: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Products of all factors up to each token, and the states from zero, [N, L, I, S], in log2(L) rounds."""
    reach = 1
    while reach < kept.shape[1]:
        added = torch.cat([added[:, :reach], added[:, reach:] + kept[:, reach:] * added[:, :-reach]], 1)
        kept = torch.cat([kept[:, :reach], kept[:, reach:] * kept[:, :-reach]], 1)
        reach *= 2
    return kept, added
