"""The Perceiver resampler of lucidrains/flamingo-pytorch, which OpenFlamingo and RadFM use: learned queries with
bias-free attention and heads of their own width. For models of these; `resampler` is the same idea for new ones."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from medvlm.core.config import Config as Base


class Config(Base):
    kind: Literal["perceiver"]
    tokens: int = Field(64, gt=0)
    """Number of image tokens that reach the language model, whatever the grid."""
    layers: int = Field(6, gt=0)
    heads: int = Field(8, gt=0)
    head_width: int = Field(64, gt=0)


def tokens(config: Config, grid: tuple[int, ...], width: int | None = None) -> int:
    return config.tokens


def build(config: Config, in_width: int, out_width: int, grid: tuple[int, ...]) -> nn.Module:
    return Perceiver(config, in_width, out_width)


class Perceiver(nn.Module):
    """[N, T, in_width] -> [N, tokens, out_width]. Keys and values are the patches and the queries."""

    def __init__(self, config: Config, in_width: int, out_width: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(config.tokens, in_width) * in_width**-0.5)
        self.blocks = nn.ModuleList(_Block(in_width, config.heads, config.head_width) for _ in range(config.layers))
        self.norm, self.project = nn.LayerNorm(in_width), nn.Linear(in_width, out_width)

    def forward(self, patches_NTE: torch.Tensor) -> torch.Tensor:
        queries = self.queries.expand(patches_NTE.shape[0], -1, -1)
        for block in self.blocks:
            queries = block(queries, patches_NTE)
        return self.project(self.norm(queries))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, head_width: int):
        super().__init__()
        inner, self.heads = heads * head_width, heads
        self.norm_patches, self.norm_queries, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key_value = nn.Linear(width, inner, bias=False), nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, bias=False)
        )

    def forward(self, queries: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        asked = self.norm_queries(queries)
        seen = torch.cat([self.norm_patches(patches), asked], 1)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(asked), *self.key_value(seen).chunk(2, -1))
        )
        attended = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        queries = queries + self.out(attended)
        return queries + self.mlp(self.norm_mlp(queries))
