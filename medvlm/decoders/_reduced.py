"""Parts of pyramid transformers, in 2D and 3D: overlapping patches, attention to a shorter sequence, and a layer that
mixes neighbours (SegFormer, arXiv 2105.15203, section 3; attention of PVT, arXiv 2102.12122).

Axes: N inputs, T tokens, E width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

Grid = tuple[int, ...]


def find_conv(axes: int) -> Any:
    return nn.Conv2d if axes == 2 else nn.Conv3d


def to_map(tokens_NTE: torch.Tensor, grid: Grid) -> torch.Tensor:
    return tokens_NTE.transpose(1, 2).unflatten(2, grid)


def to_tokens(maps: torch.Tensor) -> torch.Tensor:
    return maps.flatten(2).transpose(1, 2)


class Patches(nn.Module):
    """Maps [N, C, *size] -> tokens of patches that overlap, and their grid."""

    def __init__(self, axes: int, channels: int, width: int, kernel: int, stride: int):
        super().__init__()
        self.project = find_conv(axes)(channels, width, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, Grid]:
        projected = self.project(maps)
        return self.norm(to_tokens(projected)), tuple(projected.shape[2:])


class ReducedAttention(nn.Module):
    """Attention whose keys and values are of patches of `reduction` tokens along each axis; 1: of all tokens. A grid
    that is smaller is reduced to one token."""

    def __init__(self, axes: int, width: int, heads: int, reduction: int):
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.query, self.key, self.value, self.close = (nn.Linear(width, width) for _ in range(4))
        if reduction > 1:
            self.reduce = find_conv(axes)(width, width, reduction, stride=reduction)
            self.norm = nn.LayerNorm(width)

    def forward(self, tokens_NTE: torch.Tensor, grid: Grid) -> torch.Tensor:
        seen_NTE = tokens_NTE
        if self.reduction > 1:
            seen_NTE = self.norm(to_tokens(self.reduce(_fill(to_map(tokens_NTE, grid), self.reduction))))
        query, key, value = (
            layer(each).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, each in ((self.query, tokens_NTE), (self.key, seen_NTE), (self.value, seen_NTE))
        )
        read_NTE = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        closed: torch.Tensor = self.close(read_NTE)
        return closed


def _fill(maps: torch.Tensor, side: int) -> torch.Tensor:
    """With zeros at the end of each axis that is shorter than one patch."""
    missing = [max(0, side - n) for n in reversed(maps.shape[2:])]
    return nn.functional.pad(maps, [n for each in missing for n in (0, each)]) if any(missing) else maps


class MixedForward(nn.Module):
    """Two linear layers with a convolution of each channel between them, which tells tokens where they are. mixes:
    False leaves the convolution out."""

    def __init__(self, axes: int, width: int, ratio: int, mixes: bool = True):
        super().__init__()
        inner = ratio * width
        self.open, self.close = nn.Linear(width, inner), nn.Linear(inner, width)
        self.mix = find_conv(axes)(inner, inner, 3, padding=1, groups=inner) if mixes else None

    def forward(self, tokens_NTE: torch.Tensor, grid: Grid) -> torch.Tensor:
        inner = self.open(tokens_NTE)
        if self.mix is not None:
            inner = to_tokens(self.mix(to_map(inner, grid)))
        closed: torch.Tensor = self.close(gelu(inner))
        return closed
