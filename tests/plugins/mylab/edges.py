"""An encoder: how strong edges are in four directions, averaged over patches and mapped to tokens."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d

from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, Preprocess


class Config(EncoderConfig):
    kind: Literal["mylab.edges"]
    width: int = Field(64, gt=0)
    patch: int = Field(8, gt=0)
    """Pixels along a side."""
    preprocess: Preprocess

    @model_validator(mode="after")
    def _patches_tile_the_film(self) -> Config:
        if self.preprocess.channels != 1 or any(side % self.patch for side in self.preprocess.size):
            raise ValueError(f"preprocess: expected one channel and sides that are multiples of {self.patch}")
        return self


def facts(config: Config) -> EncoderFacts:
    height, width = config.preprocess.size
    return EncoderFacts(width=config.width, grid=(height // config.patch, width // config.patch))


def preprocess(config: Config) -> Preprocess:
    return config.preprocess


def build(config: Config) -> nn.Module:
    return Edges(config)


def standalone(config: Config, built: nn.Module) -> Config:
    """There is nothing to read from elsewhere."""
    return config


class Edges(nn.Module):
    """[N, 1, H, W] -> Features."""

    def __init__(self, config: Config):
        super().__init__()
        known = facts(config)
        assert known.width is not None and known.grid is not None
        self.width, self.grid, self.input_shape, self.patch = (
            known.width,
            known.grid,
            config.preprocess.shape,
            config.patch,
        )
        sobel = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])
        diagonal = torch.tensor([[2.0, 1, 0], [1, 0, -1], [0, -1, -2]])
        filters = torch.stack([sobel, sobel.T, diagonal, diagonal.flip(1)])[:, None]
        self.register_buffer("filters", filters)
        self.project = nn.Sequential(nn.Linear(len(filters), config.width), nn.GELU(), nn.LayerNorm(config.width))

    def forward(self, pixels_N1HW: torch.Tensor) -> Features:
        edges_NCHW = conv2d(pixels_N1HW, self.filters.to(pixels_N1HW.dtype), padding=1).abs()
        patches_NTC = avg_pool2d(edges_NCHW, self.patch).flatten(2).transpose(1, 2)
        patches_NTE = self.project(patches_NTC)
        return Features(patches_NTE, patches_NTE.mean(1), self.grid)
