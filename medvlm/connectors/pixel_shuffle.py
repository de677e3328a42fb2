"""Concatenates each block of neighbouring tokens along the channels, then projects: fewer and wider tokens, as in
InternVL and Idefics3."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.connectors._layers import format_grid
from medvlm.core.config import Config as Base
from medvlm.core.errors import ShapeError


class Config(Base):
    kind: Literal["pixel_shuffle"]
    factor: int = Field(2, gt=1)
    """Tokens joined along each of the last two axes: 2 leaves a quarter of the tokens."""
    layers: Literal[1, 2] = 2
    """2: a norm and two linear layers with GELU (InternVL). 1: one linear layer without bias (Idefics3, SmolVLM)."""


def tokens(config: Config, grid: tuple[int, ...], width: int | None = None) -> int:
    """Raises ShapeError for a grid that the factor does not tile."""
    if len(grid) < 2 or any(side % config.factor for side in grid[-2:]):
        raise ShapeError(
            f"factor: {config.factor} does not tile a grid of {format_grid(grid)} tokens; choose one that divides its"
            " last two axes, or another preprocess.size"
        )
    return math.prod(grid) // config.factor**2


def stock_class(config: Config) -> str:
    """The module of transformers that computes the same; "" where there is none."""
    return "Idefics3Connector" if config.layers == 1 else ""


def build(config: Config, in_width: int, out_width: int, grid: tuple[int, ...]) -> nn.Module:
    tokens(config, grid)
    return PixelShuffle(config, in_width, out_width, grid)


class PixelShuffle(nn.Module):
    """[N, T, in_width] -> [N, T / factor^2, out_width]. Layer names are those of transformers'
    InternVLMultiModalProjector, or Idefics3SimpleMLP's `proj`."""

    def __init__(self, config: Config, in_width: int, out_width: int, grid: tuple[int, ...]):
        super().__init__()
        self.factor, self.grid = config.factor, grid
        joined = in_width * config.factor**2
        if config.layers == 1:
            self.proj = nn.Linear(joined, out_width, bias=False)
        else:
            self.layer_norm = nn.LayerNorm(joined)
            self.linear_1 = nn.Linear(joined, out_width)
            self.act = nn.GELU()
            self.linear_2 = nn.Linear(out_width, out_width)

    def forward(self, patches_NTE: torch.Tensor) -> torch.Tensor:
        joined = shuffle(patches_NTE, self.grid, self.factor)
        if hasattr(self, "proj"):
            return self.proj(joined)
        return self.linear_2(self.act(self.linear_1(self.layer_norm(joined))))


def shuffle(patches_NTE: torch.Tensor, grid: tuple[int, ...], factor: int) -> torch.Tensor:
    """[N, T, E] -> [N, T / factor^2, factor^2 * E]; the tokens of a block are concatenated row by row. Only the last
    two axes of the grid are joined."""
    rows, columns = grid[-2] // factor, grid[-1] // factor
    blocks = patches_NTE.reshape(patches_NTE.shape[0], -1, rows, factor, columns, factor, patches_NTE.shape[-1])
    return blocks.transpose(3, 4).flatten(4).flatten(1, 3)
