"""The tokens of the whole image attend to the tokens of all its tiles, so the number of tokens does not depend on the
tiling (PA-LLaVA's scale-invariant connector).

Source: ddw2AIGROUP2CQUPT/PA-LLaVA at 49427be, xtuner_add/pallava/projector.py: a BERT without feed-forward layers. Its
queries are the tokens of the whole image, which are added to its output before a norm and a two-layer MLP. Deviation:
in PA-LLaVA the number of tiles differs from image to image; here all images have the same number."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.connectors._layers import check_heads, format_grid, mlp
from medvlm.core.config import Config as Base
from medvlm.core.errors import ShapeError


class Config(Base):
    kind: Literal["global_query"]
    layers: int = Field(6, gt=0)
    heads: int = Field(12, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)


def tokens(config: Config, grid: tuple[int, ...], width: int | None = None) -> int:
    """Raises ShapeError for an encoder that gives no tiles, or heads that do not divide the width."""
    if len(grid) != 3 or grid[0] < 2:
        raise ShapeError(
            f"reads a whole image and its tiles, and the encoder gives a grid of {format_grid(grid)}; use encoder kind"
            " `slices` with tiles: [2, 2]"
        )
    check_heads(width, config.heads)
    return math.prod(grid[1:])


def build(config: Config, in_width: int, out_width: int, grid: tuple[int, ...]) -> nn.Module:
    return GlobalQuery(config, in_width, out_width, tokens(config, grid, in_width))


class GlobalQuery(nn.Module):
    """[N, (1 + tiles) * tokens, in_width] -> [N, tokens, out_width]; the whole image comes first."""

    def __init__(self, config: Config, in_width: int, out_width: int, count: int):
        super().__init__()
        self.count = count
        self.embed = nn.Sequential(nn.LayerNorm(in_width, eps=1e-12), nn.Dropout(config.dropout))
        self.blocks = nn.ModuleList(_GlobalQueryBlock(in_width, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(in_width, eps=1e-12)
        self.project = mlp(in_width, out_width)

    def forward(self, patches_NTE: torch.Tensor) -> torch.Tensor:
        whole, tiles = patches_NTE[:, : self.count], patches_NTE[:, self.count :]
        queries = self.embed(whole)
        for block in self.blocks:
            queries = block(queries, tiles)
        return self.project(self.norm(queries + whole))


class _GlobalQueryBlock(nn.Module):
    """Self-attention, then cross-attention to the tiles, each followed by a norm as in BERT."""

    def __init__(self, width: int, config: Config):
        super().__init__()
        self.itself, self.across = (
            nn.MultiheadAttention(width, config.heads, config.dropout, batch_first=True) for _ in range(2)
        )
        self.norm_itself, self.norm_across = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, queries: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
        queries = self.norm_itself(
            queries + self.dropout(self.itself(queries, queries, queries, need_weights=False)[0])
        )
        return self.norm_across(queries + self.dropout(self.across(queries, tiles, tiles, need_weights=False)[0]))
