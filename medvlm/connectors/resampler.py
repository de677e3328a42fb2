"""A fixed number of learned queries that cross-attend to the patch tokens (Perceiver resampler, Flamingo, section
2.1)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.connectors._layers import Positions, check_heads
from medvlm.core.config import Config as Base


class Config(Base):
    kind: Literal["resampler"]
    tokens: int = Field(64, gt=0)
    """Number of image tokens that reach the language model, whatever the grid."""
    layers: int = Field(2, gt=0)
    heads: int = Field(4, gt=0)
    positions: bool = False
    """Adds a learned embedding of row, column and slice to the patches. For encoders whose tokens carry no position,
    e.g. `slices`, which encodes every slice alike."""


def tokens(config: Config, grid: tuple[int, ...], width: int | None = None) -> int:
    """Raises ShapeError if the heads do not divide the width."""
    check_heads(width, config.heads)
    return config.tokens


def build(config: Config, in_width: int, out_width: int, grid: tuple[int, ...]) -> nn.Module:
    check_heads(in_width, config.heads)
    return Resampler(config, in_width, out_width, grid)


class Resampler(nn.Module):
    """[N, T, in_width] -> [N, tokens, out_width]. As in Flamingo, keys and values are the patches concatenated with the
    queries."""

    def __init__(self, config: Config, in_width: int, out_width: int, grid: tuple[int, ...]):
        super().__init__()
        self.positions = Positions(grid, in_width) if config.positions else nn.Identity()
        self.queries = nn.Parameter(torch.randn(config.tokens, in_width) * in_width**-0.5)
        self.blocks = nn.ModuleList(_ResamplerBlock(in_width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(in_width)
        self.project = nn.Linear(in_width, out_width)

    def forward(self, patches_NTE: torch.Tensor) -> torch.Tensor:
        queries, patches_NTE = self.queries.expand(patches_NTE.shape[0], -1, -1), self.positions(patches_NTE)
        for block in self.blocks:
            queries = block(queries, patches_NTE)
        return self.project(self.norm(queries))


class _ResamplerBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm_queries, self.norm_patches, self.norm_mlp = (
            nn.LayerNorm(width),
            nn.LayerNorm(width),
            nn.LayerNorm(width),
        )
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, queries: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        asked = self.norm_queries(queries)
        seen = torch.cat([self.norm_patches(patches), asked], dim=1)
        queries = queries + self.attention(asked, seen, seen, need_weights=False)[0]
        return queries + self.mlp(self.norm_mlp(queries))
