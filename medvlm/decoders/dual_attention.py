"""TransDAE (arXiv 2409.02018), as a whole network on the pixels: a U-shaped transformer whose blocks attend twice, to
places and to channels, and whose skip connections join neighbouring scales.

A block is attention to a shorter sequence (as in SegFormer), then attention between channels (transposed attention:
each channel is a mixture of all channels, by their similarity over the places), each followed by a layer that mixes
neighbours (the order of DAE-Former, arXiv 2212.13504, on which it builds). A skip connection adds the next coarser
scale to its own and multiplies the sum by attention of a large kernel, decomposed into a convolution of each channel, a
dilated one and one of all channels (arXiv 2202.09741, section 3.1). No code of the paper was found: widths, heads, and
how scales are joined are ours.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import nn
from torch.nn.functional import interpolate, normalize

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderConfig, DecoderFacts
from medvlm.decoders._maps import count_maps
from medvlm.decoders._reduced import Grid, MixedForward, Patches, ReducedAttention, find_conv, to_map, to_tokens

OUTPUT = "maps"
Scales = tuple[PositiveInt, ...]


class Config(DecoderConfig):
    kind: Literal["dual_attention"]
    widths: Scales = Field((64, 128, 320), min_length=1)
    depths: Scales = (2, 2, 2)
    heads: Scales = (1, 2, 5)
    reductions: Scales = (4, 2, 1)
    """Tokens along each axis that keys and values are of, at each scale; 1 is plain attention."""
    attends_channels: bool = True
    skips: Literal["joined", "plain"] = "joined"
    """`joined`: a skip connection joins its scale with the next coarser one. `plain`: it is the scale itself."""
    ratio: int = Field(4, gt=0)

    @model_validator(mode="after")
    def _scales_agree(self) -> Self:
        if {len(self.widths), len(self.depths), len(self.heads), len(self.reductions)} != {len(self.widths)}:
            raise ValueError(
                "widths, depths, heads and reductions have one number for each scale; their lengths differ"
            )
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads:
                raise ValueError(f"{heads} heads do not divide a width of {width}; change one of them")
        return self


def scale_down(config: Config) -> Config:
    few, scales = tuple(min(n, 2) for n in config.heads), len(config.widths)
    return config.model_copy(update={"heads": few, "depths": (1,) * scales, "widths": (8,) * scales, "ratio": 2})


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    return DecoderFacts((count_maps(config), *(input_shape or ())[1:]))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    return DualAttention(config, input_shape[0], tuple(input_shape[1:]))


class DualAttention(nn.Module):
    """Features -> logits [N, maps, *size]."""

    def __init__(self, config: Config, channels: int, size: Grid):
        super().__init__()
        axes, widths, count = len(size), config.widths, len(config.widths)
        self.size, self.mode = size, "bilinear" if axes == 2 else "trilinear"
        self.patches = nn.ModuleList(
            Patches(axes, (channels, *widths)[n], widths[n], *((7, 4) if n == 0 else (3, 2))) for n in range(count)
        )
        self.down = nn.ModuleList(Scale(config, axes, n) for n in range(count))
        joins = config.skips == "joined"
        self.skips = nn.ModuleList(Joined(axes, widths[n], widths[n + 1]) if joins else None for n in range(count - 1))
        self.narrow = nn.ModuleList(nn.Linear(widths[n + 1], widths[n]) for n in range(count - 1))
        self.merge = nn.ModuleList(nn.Linear(2 * widths[n], widths[n]) for n in range(count - 1))
        self.up = nn.ModuleList(Scale(config, axes, n) for n in range(count - 1))
        self.classify = find_conv(axes)(widths[0], count_maps(config), 1)

    def forward(self, features: Features) -> torch.Tensor:
        maps = features.pixels
        assert maps is not None
        scales = []
        for patches, scale in zip(self.patches, self.down, strict=True):
            tokens_NTE, grid = patches(maps)
            maps = to_map(scale(tokens_NTE, grid), grid)
            scales.append(maps)
        for number in reversed(range(len(self.up))):
            own, skip = scales[number], self.skips[number]
            grid = tuple(own.shape[2:])
            kept = own if skip is None else skip(own, self._resize(scales[number + 1], grid))
            grown = to_tokens(self._resize(to_map(self.narrow[number](to_tokens(maps)), tuple(maps.shape[2:])), grid))
            merged = self.merge[number](torch.cat([grown, to_tokens(kept)], 2))
            maps = to_map(self.up[number](merged, grid), grid)
        return self._resize(self.classify(maps), self.size)

    def _resize(self, maps: torch.Tensor, size: Grid) -> torch.Tensor:
        return interpolate(maps, size=size, mode=self.mode, align_corners=False)


class Joined(nn.Module):
    """Two neighbouring scales of one grid, and attention of a large kernel: 5, then 7 with gaps of 3 pixels."""

    def __init__(self, axes: int, width: int, coarser: int):
        super().__init__()
        conv = find_conv(axes)
        self.join = conv(width + coarser, width, 1)
        self.near = conv(width, width, 5, padding=2, groups=width)
        self.far = conv(width, width, 7, padding=9, dilation=3, groups=width)
        self.weigh = conv(width, width, 1)

    def forward(self, own: torch.Tensor, coarser: torch.Tensor) -> torch.Tensor:
        joined = self.join(torch.cat([own, coarser], 1))
        weighed: torch.Tensor = own + joined * self.weigh(self.far(self.near(joined)))
        return weighed


class Scale(nn.Module):
    """Tokens of one scale -> the same."""

    def __init__(self, config: Config, axes: int, number: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, axes, number) for _ in range(config.depths[number]))
        self.norm = nn.LayerNorm(config.widths[number])

    def forward(self, tokens_NTE: torch.Tensor, grid: Grid) -> torch.Tensor:
        for block in self.blocks:
            tokens_NTE = block(tokens_NTE, grid)
        normed: torch.Tensor = self.norm(tokens_NTE)
        return normed


class Block(nn.Module):
    def __init__(self, config: Config, axes: int, number: int):
        super().__init__()
        width, heads = config.widths[number], config.heads[number]
        attentions: list[Any] = [ReducedAttention(axes, width, heads, config.reductions[number])]
        attentions += [ChannelAttention(width, heads)] if config.attends_channels else []
        self.attend = nn.ModuleList(attentions)
        self.mix = nn.ModuleList(MixedForward(axes, width, config.ratio) for _ in attentions)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * len(attentions)))

    def forward(self, tokens_NTE: torch.Tensor, grid: Grid) -> torch.Tensor:
        for number, (attend, mix) in enumerate(zip(self.attend, self.mix, strict=True)):
            tokens_NTE = tokens_NTE + attend(self.norms[2 * number](tokens_NTE), grid)
            tokens_NTE = tokens_NTE + mix(self.norms[2 * number + 1](tokens_NTE), grid)
        return tokens_NTE


class ChannelAttention(nn.Module):
    """Each channel reads the channels of its head, by their cosine over all tokens times a learned scale (XCiT, arXiv
    2106.09681, equation 4)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.scale = nn.Parameter(torch.ones(heads, 1, 1))
        self.open, self.close = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens_NTE: torch.Tensor, grid: Grid) -> torch.Tensor:
        query, key, value = self.open(tokens_NTE).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 4, 1)
        likeness = normalize(query, dim=-1) @ normalize(key, dim=-1).transpose(-1, -2) * self.scale
        read = likeness.softmax(-1) @ value  # [N, heads, width of a head, T]
        closed: torch.Tensor = self.close(read.flatten(1, 2).transpose(1, 2))
        return closed
