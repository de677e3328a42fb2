"""Which patches of a view are masked.

Axes: T patches of a grid, row-major.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.random import Generator

LEAST = 4
"""Patches of the smallest block."""
ATTEMPTS = 10
STRETCH = math.log(1 / 0.3)
"""The logarithm of the largest proportion of two sides of a block."""


def scatter(grid: tuple[int, ...], count: int, rng: Generator) -> torch.Tensor:
    """bool [T] with `count` patches, each drawn by itself."""
    hidden_T = torch.zeros(math.prod(grid), dtype=torch.bool)
    hidden_T[rng.permutation(len(hidden_T))[:count]] = True
    return hidden_T


def draw_blocks(grid: tuple[int, ...], count: int, rng: Generator) -> torch.Tensor:
    """bool [T] with at most `count` patches, and at least one, in blocks that may overlap (BEiT, arXiv 2106.08254,
    algorithm 1, with the sizes of DINOv2's code), in 2D and 3D. It stops early if ten blocks in turn add nothing."""
    hidden = np.zeros(grid, bool)
    while (left := count - int(hidden.sum())) > 0:
        for _ in range(ATTEMPTS):
            block = _draw_block(grid, left, rng)
            if block is not None and 0 < hidden[block].size - int(hidden[block].sum()) <= left:
                hidden[block] = True
                break
        else:
            break
    return torch.from_numpy(hidden.ravel()) if hidden.any() else scatter(grid, 1, rng)


def _draw_block(grid: tuple[int, ...], most: int, rng: Generator) -> tuple[slice, ...] | None:
    """None for one that is longer than the grid."""
    size = rng.uniform(min(LEAST, most), most)
    stretch = np.array([*rng.uniform(-STRETCH, STRETCH, len(grid) - 1), 0.0])
    factors = np.exp(stretch - stretch.mean())
    sides = [max(1, round(size ** (1 / len(grid)) * float(factor))) for factor in factors]
    if any(side > n for side, n in zip(sides, grid, strict=True)):
        return None
    starts = [int(rng.integers(0, n - side + 1)) for n, side in zip(grid, sides, strict=True)]
    return tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
