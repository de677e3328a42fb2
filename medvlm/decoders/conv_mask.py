"""Predicts a mask from patch tokens, by steps of interpolation and convolution from the grid to the size of the input.

The progressive upsampling head of SETR (arXiv 2012.15840, section 3.2) for 2D and 3D. Transposed convolutions would
leave checkerboard patterns and fix the ratio of grid and input. Axes: N samples, E channels, then the axes of the grid.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import gelu, interpolate

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderConfig, DecoderFacts
from medvlm.core.errors import ShapeError
from medvlm.decoders._maps import count_maps

OUTPUT = "maps"
NARROWEST = 16
"""Minimum number of channels. They are halved at each step, because later maps are larger and cost more."""


class Config(DecoderConfig):
    kind: Literal["conv_mask"]
    width: int = Field(64, gt=0, multiple_of=8)
    """Number of channels at the size of the grid; halved at each step, down to 16."""
    steps: int | None = Field(None, ge=1)
    """Number of steps of interpolation and convolution from grid to input; by default each step about doubles the size.
    Fewer steps are faster and give smoother outlines."""


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    """Raises ShapeError for a grid with another number of axes than the input, or with more tokens than pixels along an
    axis."""
    if grid is not None and input_shape is not None:
        _check(grid, input_shape[1:])
    size = tuple(input_shape[1:]) if input_shape is not None else ()
    return DecoderFacts((count_maps(config), *size))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    _check(grid, input_shape[1:])
    return Mask(config, width, tuple(grid), tuple(input_shape[1:]))


def compute_sizes(grid: tuple[int, ...], size: tuple[int, ...], steps: int | None) -> list[tuple[int, ...]]:
    """The size of the maps after each step. Each axis grows by a constant factor per step."""
    ratio = max(large / small for small, large in zip(grid, size, strict=True))
    count = steps or max(math.ceil(math.log2(ratio) - 1e-9), 1)

    def grow(share: float) -> tuple[int, ...]:
        return tuple(round(small * (large / small) ** share) for small, large in zip(grid, size, strict=True))

    return [grow(number / count) for number in range(1, count + 1)]


def _check(grid: tuple[int, ...], size: tuple[int, ...]) -> None:
    by_axis = " x ".join
    shown, wanted = by_axis(map(str, grid)), by_axis(map(str, size))
    if len(grid) != len(size):
        raise ShapeError(
            f"conv_mask cannot make a mask of {wanted} pixels from a grid of {shown} tokens; use an encoder whose"
            " grid has as many axes as its preprocess.size"
        )
    if any(small > large for small, large in zip(grid, size, strict=True)):
        raise ShapeError(
            f"conv_mask cannot shrink a grid of {shown} tokens to a mask of {wanted} pixels; raise preprocess.size"
        )


class Mask(nn.Module):
    """Features -> logits [N, maps, *size]."""

    def __init__(self, config: Config, width: int, grid: tuple[int, ...], size: tuple[int, ...]):
        super().__init__()
        self.grid, self.sizes = grid, compute_sizes(grid, size, config.steps)
        axes = len(grid)
        self.mode = "bilinear" if axes == 2 else "trilinear"
        conv: Any = nn.Conv2d if axes == 2 else nn.Conv3d
        narrowest = min(config.width, NARROWEST)
        widths = [max((config.width >> number) // 8 * 8, narrowest) for number in range(len(self.sizes) + 1)]
        self.reduce = conv(width, widths[0], kernel_size=1)
        self.steps = nn.ModuleList(
            nn.Sequential(conv(a, b, kernel_size=3, padding=1), nn.GroupNorm(min(8, b), b)) for a, b in pairwise(widths)
        )
        self.classify = conv(widths[-1], count_maps(config), kernel_size=1)

    def forward(self, features: Features) -> torch.Tensor:
        maps = self.reduce(features.patches.transpose(1, 2).unflatten(2, self.grid))
        for step, size in zip(self.steps, self.sizes, strict=True):
            maps = interpolate(maps, size=size, mode=self.mode, align_corners=False)
            maps = gelu(step(maps))
        logits: torch.Tensor = self.classify(maps)
        return logits
