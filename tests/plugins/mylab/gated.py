"""A connector with a gate per token: tokens that carry little are scaled down."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from medvlm.core.config import Config as Base


class Config(Base):
    kind: Literal["mylab.gated"]
    bias: float = 2.0
    """Initial logit of every gate; 2.0 opens it by 88 %."""


def tokens(config: Config, grid: tuple[int, ...], width: int | None = None) -> int:
    return math.prod(grid)


def build(config: Config, in_width: int, out_width: int, grid: tuple[int, ...]) -> nn.Module:
    return Gated(in_width, out_width, config.bias)


class Gated(nn.Module):
    """[N, T, in_width] -> [N, T, out_width]."""

    def __init__(self, in_width: int, out_width: int, bias: float):
        super().__init__()
        self.project = nn.Linear(in_width, out_width)
        self.gate = nn.Linear(in_width, 1)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, patches_NTE: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.gate(patches_NTE)) * self.project(patches_NTE)
