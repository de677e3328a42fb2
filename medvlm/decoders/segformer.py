"""SegFormer in 2D (arXiv 2105.15203) and 3D (SegFormer3D, arXiv 2404.10156), as a whole network on the pixels: a
pyramid transformer, and a decoder of linear layers that joins all of its levels.

Differing from both, the layer that joins the levels has a GroupNorm in place of a BatchNorm, so that a small batch of
volumes does not decide; the 3D paper's BatchNorm after the mixing convolution is left out. Levels keep their grids, so
any size of input works; the authors' 3D code folds tokens by their cube root and takes cubes alone.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import nn
from torch.nn.functional import interpolate, relu

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderConfig, DecoderFacts
from medvlm.decoders._maps import count_maps
from medvlm.decoders._reduced import Grid, MixedForward, Patches, ReducedAttention, find_conv, to_map

OUTPUT = "maps"
Four = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]


class Config(DecoderConfig):
    kind: Literal["segformer"]
    widths: Four = (32, 64, 160, 256)
    depths: Four = (2, 2, 2, 2)
    heads: Four = (1, 2, 5, 8)
    reductions: Four = (8, 4, 2, 1)
    """Tokens along each axis that keys and values are of, at each level: 1 is plain attention. 4, 2, 1, 1 in 3D."""
    ratio: int = Field(4, gt=0)
    """Inner width of the layers between attentions, in multiples of their width."""
    mixes: bool = True
    """Whether these have a convolution, in place of position codes."""
    width: int = Field(256, gt=0, multiple_of=8)
    """Of the decoder."""
    fuses: bool = True
    """Whether the decoder joins all levels; false: the coarsest one alone."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads:
                raise ValueError(f"{heads} heads do not divide a width of {width}; change one of them")
        return self


def scale_down(config: Config) -> Config:
    heads: Any = tuple(min(n, 2) for n in config.heads)
    return config.model_copy(update={"widths": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "heads": heads, "width": 16})


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    return DecoderFacts((count_maps(config), *(input_shape or ())[1:]))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    return SegFormer(config, input_shape[0], tuple(input_shape[1:]))


class SegFormer(nn.Module):
    """Features -> logits [N, maps, *size]."""

    def __init__(self, config: Config, channels: int, size: Grid):
        super().__init__()
        axes, widths = len(size), config.widths
        self.size, self.mode, self.fuses = size, "bilinear" if axes == 2 else "trilinear", config.fuses
        self.levels = nn.ModuleList(
            Level(config, axes, (channels, *widths)[number], number) for number in range(len(widths))
        )
        read = range(len(widths)) if config.fuses else [len(widths) - 1]
        self.project = nn.ModuleDict({str(number): nn.Linear(widths[number], config.width) for number in read})
        conv = find_conv(axes)
        self.fuse = conv(config.width * len(read), config.width, 1, bias=False)
        self.norm = nn.GroupNorm(8, config.width)
        self.classify = conv(config.width, count_maps(config), 1)

    def forward(self, features: Features) -> torch.Tensor:
        maps = features.pixels
        assert maps is not None
        read = []
        for number, level in enumerate(self.levels):
            tokens_NTE, grid = level(maps)
            maps = to_map(tokens_NTE, grid)
            if str(number) in self.project:
                read.append(to_map(self.project[str(number)](tokens_NTE), grid))
        finest = read[0].shape[2:]
        joined = torch.cat([self._resize(each, finest) for each in reversed(read)], 1)
        return self._resize(self.classify(relu(self.norm(self.fuse(joined)))), self.size)

    def _resize(self, maps: torch.Tensor, size: Any) -> torch.Tensor:
        same = tuple(maps.shape[2:]) == tuple(size)
        return maps if same else interpolate(maps, size=size, mode=self.mode, align_corners=False)


class Level(nn.Module):
    """Maps -> tokens of a level, and their grid."""

    def __init__(self, config: Config, axes: int, channels: int, number: int):
        super().__init__()
        width, kernel, stride = config.widths[number], *((7, 4) if number == 0 else (3, 2))
        self.patches = Patches(axes, channels, width, kernel, stride)
        self.blocks = nn.ModuleList(Block(config, axes, number) for _ in range(config.depths[number]))
        self.norm = nn.LayerNorm(width)

    def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, Grid]:
        tokens_NTE, grid = self.patches(maps)
        for block in self.blocks:
            tokens_NTE = block(tokens_NTE, grid)
        return self.norm(tokens_NTE), grid


class Block(nn.Module):
    def __init__(self, config: Config, axes: int, number: int):
        super().__init__()
        width = config.widths[number]
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = ReducedAttention(axes, width, config.heads[number], config.reductions[number])
        self.mix = MixedForward(axes, width, config.ratio, config.mixes)

    def forward(self, tokens_NTE: torch.Tensor, grid: Grid) -> torch.Tensor:
        tokens_NTE = tokens_NTE + self.attend(self.before(tokens_NTE), grid)
        mixed: torch.Tensor = tokens_NTE + self.mix(self.between(tokens_NTE), grid)
        return mixed
