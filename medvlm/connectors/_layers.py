"""Layers and checks that several connectors share."""

from __future__ import annotations

import math

import torch
from torch import nn

from medvlm.core.errors import ShapeError


def mlp(in_width: int, out_width: int) -> nn.Sequential:
    """Two linear layers with GELU between them."""
    return nn.Sequential(nn.Linear(in_width, out_width), nn.GELU(), nn.Linear(out_width, out_width))


def check_heads(width: int | None, heads: int) -> None:
    """Raises ShapeError if the attention heads do not divide the width. A width of None (not known yet) passes."""
    if width is not None and width % heads:
        raise ShapeError(
            f"heads: {heads} do not divide the width of {width}; choose one of"
            f" {', '.join(str(n) for n in range(1, 33) if width % n == 0)}"
        )


def to_maps(patches_NTE: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """[N, T, E] -> [N, E, *grid]."""
    return patches_NTE.transpose(1, 2).unflatten(2, grid)


def format_grid(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))


class Positions(nn.Module):
    """Adds a learned embedding of the position on each grid axis, for attention that would otherwise ignore the order
    of the patches. Initialised to zero, so training starts from the model without positions."""

    def __init__(self, grid: tuple[int, ...], width: int):
        super().__init__()
        self.axes = nn.ParameterList(nn.Parameter(torch.zeros(n, width)) for n in grid)
        self.grid = grid

    def forward(self, patches_NTE: torch.Tensor) -> torch.Tensor:
        added = patches_NTE.new_zeros(*self.grid, patches_NTE.shape[-1])
        for axis, table in enumerate(self.axes):
            added = added + table.view(*[n if i == axis else 1 for i, n in enumerate(self.grid)], -1)
        return patches_NTE + added.reshape(math.prod(self.grid), -1)
