"""Average pooling of tokens over blocks of their grid, then a two-layer MLP. Shared by pool2d and pool3d."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

from medvlm.connectors._layers import Positions, format_grid, mlp, to_maps
from medvlm.core.errors import ShapeError


def check(to: tuple[int, ...], grid: tuple[int, ...]) -> None:
    """Raises ShapeError if the grid has too few axes, or fewer tokens along an axis than `to` asks for."""
    last = grid[-len(to) :]
    if len(grid) < len(to) or any(small > side for small, side in zip(to, last, strict=True)):
        raise ShapeError(
            f"to: [{', '.join(map(str, to))}] cannot be pooled from a grid of {format_grid(grid)} tokens; choose at"
            " most that many along each axis"
        )


class Pool(nn.Module):
    """[N, T, in_width] -> [N, tokens, out_width]. Averages over the last len(to) axes of the grid and keeps the others.
    Pooling is adaptive where an axis is not a multiple of its target."""

    def __init__(
        self, to: tuple[int, ...], in_width: int, out_width: int, grid: tuple[int, ...], positions: bool = False
    ):
        super().__init__()
        self.to, self.grid = to, grid
        self.project = mlp(in_width, out_width)
        self.positions = Positions((*grid[: -len(to)], *to), out_width) if positions else nn.Identity()

    def forward(self, patches_NTE: torch.Tensor) -> torch.Tensor:
        kept = len(self.grid) - len(self.to)
        maps = to_maps(patches_NTE, self.grid).movedim(1, 1 + kept)  # [N, *kept axes, E, *pooled axes]
        flat = maps.flatten(0, kept)
        pool: Any = adaptive_avg_pool2d if len(self.to) == 2 else adaptive_avg_pool3d
        pooled = pool(flat, self.to)
        pooled_NTE = pooled.flatten(2).transpose(1, 2).reshape(patches_NTE.shape[0], -1, pooled.shape[1])
        return self.positions(self.project(pooled_NTE))
