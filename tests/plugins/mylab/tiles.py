"""A decoder of masks: each token gives the pixels of its own patch, with one matrix."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderConfig, DecoderFacts
from medvlm.core.errors import ShapeError

OUTPUT = "maps"


class Config(DecoderConfig):
    kind: Literal["mylab.tiles"]


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    if grid is not None and input_shape is not None:
        patch_of(grid, input_shape)
    return DecoderFacts((count_maps(config), *(input_shape or ())[1:]))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    return Tiles(width, grid, patch_of(grid, input_shape), count_maps(config))


def count_maps(config: Config) -> int:
    """Exclusive classes have a background in front."""
    return len(config.classes) + config.exclusive


def patch_of(grid: tuple[int, ...], input_shape: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of a token in pixels."""
    size = input_shape[1:]
    if len(grid) != 2 or len(size) != 2 or size[0] % grid[0] or size[1] % grid[1]:
        raise ShapeError(f"mylab.tiles: a grid of {grid} does not divide {size} pixels; choose another preprocess.size")
    return size[0] // grid[0], size[1] // grid[1]


class Tiles(nn.Module):
    """Features -> logits [N, maps, H, W]."""

    def __init__(self, width: int, grid: tuple[int, ...], patch: tuple[int, int], maps: int):
        super().__init__()
        self.grid, self.patch, self.maps = grid, patch, maps
        self.spread = nn.Linear(width, maps * patch[0] * patch[1])

    def forward(self, features: Features) -> torch.Tensor:
        count, rows, columns, (high, wide) = len(features.patches), *self.grid, self.patch
        pixels = self.spread(features.patches).view(count, rows, columns, self.maps, high, wide)
        return pixels.permute(0, 3, 1, 4, 2, 5).reshape(count, self.maps, rows * high, columns * wide)
