"""Two linear layers with GELU between them, as in LLaVA-1.5. The connector of transformers' LLaVA model."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from medvlm.core.config import Config as Base


class Config(Base):
    kind: Literal["mlp"]


def tokens(config: Config, grid: tuple[int, ...], width: int | None = None) -> int:
    return math.prod(grid)


def stock_class(config: Config) -> str:
    """The module of transformers that computes the same, with the same names."""
    return "LlavaMultiModalProjector"


def build(config: Config, in_width: int, out_width: int, grid: tuple[int, ...]) -> nn.Module:
    return Mlp(in_width, out_width)


class Mlp(nn.Module):
    """[N, T, in_width] -> [N, T, out_width]. Layer names are those of transformers' LlavaMultiModalProjector."""

    def __init__(self, in_width: int, out_width: int):
        super().__init__()
        self.linear_1 = nn.Linear(in_width, out_width)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(out_width, out_width)

    def forward(self, patches_NTE: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(patches_NTE)))
