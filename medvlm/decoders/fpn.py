"""Predicts a mask from several layers of an encoder: a feature pyramid with one sum of all its levels (semantic FPN,
Kirillov et al. 2019, arXiv 1901.02446, section 3), in 2D and 3D.

The pyramid is MONAI's, which is torchvision's in 2D. Differing from the paper, each level has one convolution before it
is interpolated to the finest level, where the paper has one for each doubling.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import interpolate, relu

from medvlm.core.contracts import Features, Level
from medvlm.core.decoder_config import DecoderConfig, DecoderFacts
from medvlm.core.errors import ShapeError
from medvlm.decoders._maps import count_maps

OUTPUT = "maps"


class Config(DecoderConfig):
    kind: Literal["fpn"]
    width: int = Field(128, gt=0, multiple_of=8)
    """Number of channels of all levels."""


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    return DecoderFacts((count_maps(config), *(input_shape or ())[1:]))


def reads_levels(config: Config) -> bool:
    return True


def build(
    config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...], levels: tuple[Level, ...]
) -> nn.Module:
    """Raises ShapeError for levels that do not get coarser, or have another number of axes than the input."""
    size = tuple(input_shape[1:])
    if any(len(level.grid) != len(size) for level in levels):
        raise ShapeError(f"fpn: levels of {len(levels[0].grid)} axes cannot make a mask of {len(size)} axes")
    for finer, coarser in pairwise(levels):
        if any(a < b for a, b in zip(finer.grid, coarser.grid, strict=True)):
            raise ShapeError(
                f"fpn: `levels` of the encoder have grids {', '.join(str(level.grid) for level in levels)}; list them"
                " from the finest to the coarsest"
            )
    return Pyramid(config, levels, size)


class Pyramid(nn.Module):
    """Features -> logits [N, maps, *size]."""

    def __init__(self, config: Config, levels: tuple[Level, ...], size: tuple[int, ...]):
        from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork

        super().__init__()
        self.size, self.mode = size, "bilinear" if len(size) == 2 else "trilinear"
        conv: Any = nn.Conv2d if len(size) == 2 else nn.Conv3d
        self.pyramid = FeaturePyramidNetwork(len(size), [level.width for level in levels], config.width)
        self.refine = nn.ModuleList(
            nn.Sequential(conv(config.width, config.width, kernel_size=3, padding=1), nn.GroupNorm(8, config.width))
            for _ in levels
        )
        self.classify = conv(config.width, count_maps(config), kernel_size=1)

    def forward(self, features: Features) -> torch.Tensor:
        finest = features.levels[0].shape[2:]
        maps = self.pyramid({str(number): level for number, level in enumerate(features.levels)}).values()
        refined = [relu(refine(level)) for refine, level in zip(self.refine, maps, strict=True)]
        whole = torch.stack([self._resize(each, finest) for each in refined]).sum(0)
        return self._resize(self.classify(whole), self.size)

    def _resize(self, maps: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        return maps if tuple(maps.shape[2:]) == tuple(size) else interpolate(maps, size=size, mode=self.mode)
