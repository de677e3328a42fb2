"""A small network with the modules and arguments of MedViTV2 (arXiv 2502.13693; Omid-Nejati/MedViTV2 at 8d54f66), whose
package is on no index: tests import it under its name.

Blocks and names of modules are those of the paper; widths are a fraction, and neighbourhood attention is plain torch.

Axes: N images, C channels, H and W pixels, K pixels of a neighbourhood.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.functional import unfold


class NeighbourhoodAttention(nn.Module):
    """Each pixel attends to those around it, `dilation` apart."""

    def __init__(self, width: int, heads: int, side: int = 7, dilation: int = 1):
        super().__init__()
        self.heads, self.side, self.dilation = heads, side, dilation
        self.qkv, self.proj = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, width, high, wide = x.shape
        query, *rest = self.qkv(x).chunk(3, 1)
        reach = self.dilation * (self.side // 2)
        around = [
            unfold(each, self.side, self.dilation, reach).unflatten(1, (self.heads, -1, self.side**2)) for each in rest
        ]
        asked = query.flatten(2).unflatten(1, (self.heads, -1))
        scores = torch.einsum("ndcp,ndckp->ndkp", asked, around[0]) * (width // self.heads) ** -0.5
        inside = unfold(torch.ones_like(x[:, :1]), self.side, self.dilation, reach)[:, None]
        shares = scores.masked_fill(inside == 0, -torch.inf).softmax(2)
        return self.proj(torch.einsum("ndkp,ndckp->ndcp", shares, around[1]).reshape(count, width, high, wide))


class FasterKAN(nn.Module):
    """Two layers of learned functions, each a sum of 1 - tanh^2 around eight points."""

    def __init__(self, *widths: int):
        super().__init__()
        self.layers = nn.ModuleList(KANLayer(a, b) for a, b in pairwise(widths))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class KANLayer(nn.Module):
    def __init__(self, width: int, wider: int):
        super().__init__()
        self.layernorm, self.spline_linear = nn.LayerNorm(width), nn.Linear(8 * width, wider, bias=False)
        self.register_buffer("grid", torch.linspace(-2, 2, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        basis = 1 - ((self.layernorm(x)[..., None] - self.grid) / 0.33).tanh().square()
        found: torch.Tensor = self.spline_linear(basis.flatten(-2))
        return found


class LFP(nn.Module):
    def __init__(self, width: int, wider: int, stride: int, heads: int):
        super().__init__()
        self.patch_embed = nn.Sequential(
            nn.AvgPool2d(stride, stride), nn.Conv2d(width, wider, 1), nn.BatchNorm2d(wider)
        )
        self.norm1, self.norm2 = nn.BatchNorm2d(wider), nn.BatchNorm2d(wider)
        self.attn = NeighbourhoodAttention(wider, heads)
        self.conv = nn.Sequential(
            nn.Conv2d(wider, 2 * wider, 1), nn.Hardswish(),
            nn.Conv2d(2 * wider, 2 * wider, 3, padding=1, groups=2 * wider), nn.Hardswish(),
            nn.Conv2d(2 * wider, wider, 1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        x = x + self.attn(self.norm1(x))
        return x + self.conv(self.norm2(x))


class GFP(nn.Module):
    """Attention among all pixels for a share of the channels, grouped convolutions for the others, and KAN."""

    def __init__(self, width: int, wider: int, stride: int, heads: int, share: float):
        super().__init__()
        own = heads * round(wider * share / heads)
        self.patch_embed = nn.Sequential(nn.AvgPool2d(stride, stride), nn.Conv2d(width, own, 1), nn.BatchNorm2d(own))
        self.norm1, self.norm2 = nn.BatchNorm2d(own), nn.BatchNorm2d(wider)
        self.e_mhsa = nn.MultiheadAttention(own, heads, batch_first=True)
        self.projection = nn.Conv2d(own, wider - own, 1)
        self.mhca = nn.Conv2d(wider - own, wider - own, 3, padding=1)
        self.kan = FasterKAN(wider, 2 * wider, wider)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        tokens = self.norm1(x).flatten(2).transpose(1, 2)
        x = x + self.e_mhsa(tokens, tokens, tokens)[0].transpose(1, 2).unflatten(2, x.shape[2:])
        more = self.projection(x)
        x = torch.cat([x, more + self.mhca(more)], 1)
        return x + self.kan(self.norm2(x).movedim(1, -1)).movedim(-1, 1)


class MedViT(nn.Module):
    def __init__(self, dims: tuple[int, ...], mix_block_ratio: float = 0.75, num_classes: int = 1000):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, dims[0], 3, 4, 1), nn.BatchNorm2d(dims[0]), nn.ReLU())
        blocks: list[nn.Module] = [LFP(dims[0], dims[0], 1, 2)]
        for narrow, wide in pairwise(dims):
            blocks += [LFP(narrow, wide, 2, 2), GFP(wide, wide, 1, 2, mix_block_ratio)]
        self.features = nn.Sequential(*blocks)
        self.norm, self.avgpool = nn.BatchNorm2d(dims[-1]), nn.AdaptiveAvgPool2d(1)
        self.proj_head = nn.Sequential(nn.Linear(dims[-1], num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.proj_head(self.avgpool(self.norm(self.features(self.stem(x)))).flatten(1))
        return found


def MedViT_small(pretrained: bool = False, **kwargs: Any) -> MedViT:
    return MedViT((8, 16, 16, 32), **kwargs)
