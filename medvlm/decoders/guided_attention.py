"""Multi-scale guided attention (Sinha and Dolz 2019, arXiv 1906.02849): every level of an encoder is compared with all
levels together, by attention to positions and to channels, under the guidance of an autoencoder; twice in a row.

All levels are brought to one width and to the grid of the finest one; their joined map is concatenated with each of
them (section 3.1). A stack attends to that, and multiplies what it finds by what an autoencoder restores of it (section
3.3). The second stack reads the level and the joined map times what the first one gave. Each stack of each level gives
a map: in training the last one is the output and the others are side outputs, and otherwise the output is the mean of
the maps of the second stacks, as in the authors' code (sinAshish/Multi-Scale-Attention).

Two losses are its own (equations 6 and 7): `codes`, how much the codes of both autoencoders of a level differ, and
`restored`, how much is lost in each. Differing from the code, both stacks of a level share the layer that names
classes, and GroupNorm replaces BatchNorm.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from medvlm.core.contracts import Features, Level
from medvlm.core.decoder_config import DecoderConfig, DecoderFacts, WithTerms
from medvlm.core.errors import ShapeError
from medvlm.decoders._maps import count_maps
from medvlm.decoders._reduced import find_conv, to_map, to_tokens

OUTPUT = "maps"


class Config(DecoderConfig):
    kind: Literal["guided_attention"]
    width: int = Field(64, gt=0, multiple_of=8)
    """Channels of each level."""
    attends: bool = True
    """Whether a stack attends to positions and channels; false: it only convolves."""
    codes: float = Field(0.25, ge=0)
    """Weight of the difference between the codes of a level."""
    restored: float = Field(0.1, ge=0)
    """Weight of what the autoencoders lose."""


def scale_down(config: Config) -> Config:
    return config.model_copy(update={"width": 8})


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    return DecoderFacts((count_maps(config), *(input_shape or ())[1:]))


def reads_levels(config: Config) -> bool:
    return True


def build(
    config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...], levels: tuple[Level, ...]
) -> nn.Module:
    """Raises ShapeError for an encoder without `levels`, or with levels of another number of axes than its input."""
    if not levels or any(len(level.grid) != len(input_shape) - 1 for level in levels):
        raise ShapeError(
            "guided_attention compares several layers of an encoder; list them in its `levels`, the finest first, e.g."
            " [-4, -3, -2, -1]"
        )
    return Guided(config, levels, tuple(input_shape[1:]))


def join(axes: int, before: int, after: int, kernel: int = 3) -> nn.Module:
    conv = find_conv(axes)(before, after, kernel, padding=kernel // 2)
    return nn.Sequential(conv, nn.GroupNorm(min(8, after), after), nn.ReLU())


class Guided(nn.Module):
    """Features -> logits [N, maps, *size]; in training with side outputs and its own losses."""

    def __init__(self, config: Config, levels: tuple[Level, ...], size: tuple[int, ...]):
        super().__init__()
        axes, count = len(size), len(levels)
        self.config, self.size, self.mode = config, size, "bilinear" if axes == 2 else "trilinear"
        self.reduce = nn.ModuleList(join(axes, level.width, config.width, 1) for level in levels)
        self.fuse = join(axes, count * config.width, config.width)
        self.first, self.second = (
            nn.ModuleList(Stack(axes, config.width, config.attends) for _ in levels) for _ in range(2)
        )
        self.classify = nn.ModuleList(find_conv(axes)(config.width, count_maps(config), 1) for _ in levels)
        self.sides = (size,) * (2 * count - 1)
        self.terms = tuple(name for name in ("codes", "restored") if getattr(config, name))

    def forward(self, features: Features) -> torch.Tensor | WithTerms:
        finest = features.levels[0].shape[2:]
        own = [self._resize(reduce(level), finest) for reduce, level in zip(self.reduce, features.levels, strict=True)]
        fused = self.fuse(torch.cat(own, 1))
        firsts = [stack(torch.cat([maps, fused], 1)) for stack, maps in zip(self.first, own, strict=True)]
        seconds = [
            stack(torch.cat([maps, fused * first.found], 1))
            for stack, maps, first in zip(self.second, own, firsts, strict=True)
        ]
        of_first, of_second = (
            [self._resize(classify(each.found), self.size) for classify, each in zip(self.classify, found, strict=True)]
            for found in (firsts, seconds)
        )
        if not self.training:
            return torch.stack(of_second).mean(0)
        codes_N = sum(_differ(a.code, b.code) for a, b in zip(firsts, seconds, strict=True))
        restored_N = sum(each.lost_N for each in [*firsts, *seconds])
        terms = {"codes": self.config.codes * codes_N, "restored": self.config.restored * restored_N}
        logits = [of_second[-1], *of_second[:-1], *of_first]
        return WithTerms(logits, {name: terms[name] for name in self.terms})

    def _resize(self, maps: torch.Tensor, size: Any) -> torch.Tensor:
        same = tuple(maps.shape[2:]) == tuple(size)
        return maps if same else interpolate(maps, size=size, mode=self.mode, align_corners=False)


class Found:
    """found: [N, C, *grid]. code: of the autoencoder. lost_N: its squared error."""

    def __init__(self, found: torch.Tensor, code: torch.Tensor, lost_N: torch.Tensor):
        self.found, self.code, self.lost_N = found, code, lost_N


class Stack(nn.Module):
    """A level with the joined map [N, 2 C, *grid] -> Found."""

    def __init__(self, axes: int, width: int, attends: bool):
        super().__init__()
        both = 2 * width
        self.mode = "bilinear" if axes == 2 else "trilinear"
        self.encode = nn.ModuleList(join(axes, both, both) for _ in range(2))
        self.decode = nn.Sequential(join(axes, both, both), find_conv(axes)(both, both, 3, padding=1))
        self.guide = join(axes, both, width, 1)
        self.read = join(axes, both, width)
        self.position = PositionAttention(axes, width) if attends else None
        self.channel = ChannelAttention() if attends else None
        self.close = join(axes, width, width)

    def forward(self, maps: torch.Tensor) -> Found:
        code = maps
        for layer in self.encode:
            half = tuple((side + 1) // 2 for side in code.shape[2:])
            code = interpolate(layer(code), size=half, mode="area")
        grown = interpolate(code, size=maps.shape[2:], mode=self.mode, align_corners=False)
        restored = self.decode(grown)
        read = self.read(maps)
        if self.position is not None and self.channel is not None:
            read = self.position(read) + self.channel(read)
        return Found(self.close(read * self.guide(restored)), code, _differ(restored, maps))


class PositionAttention(nn.Module):
    """x + weight * attention of all positions (DANet, arXiv 1809.02983, equation 2; without the scale of the dot
    product, as there). The weight begins at 0 there; here at 1, so that the attention is trained from the start."""

    def __init__(self, axes: int, width: int):
        super().__init__()
        conv, inner = find_conv(axes), max(1, width // 8)
        self.query, self.key, self.value = (conv(width, n, 1) for n in (inner, inner, width))
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        query, key, value = (to_tokens(layer(maps)) for layer in (self.query, self.key, self.value))
        read = scaled_dot_product_attention(query, key, value, scale=1.0)
        return maps + self.weight * to_map(read, tuple(maps.shape[2:]))


class ChannelAttention(nn.Module):
    """x + weight * attention of all channels (DANet, equation 4; the code takes the distance from the largest likeness,
    which is the same as the negative likeness)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        flat = maps.flatten(2)
        likeness = flat @ flat.transpose(1, 2) / flat.shape[2]
        return maps + self.weight * (likeness.neg().softmax(-1) @ flat).view_as(maps)


def _differ(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of each sample, [N], in float32."""
    return (a.float() - b.float()).square().flatten(1).mean(1)
