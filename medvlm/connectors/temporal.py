"""Compares the current image with the prior one, over all layers of the vision tower (Libra's Temporal Alignment
Connector).

Source: X-iZhang/Libra at 3948165, libra/model/multimodal_projector/builder.py, class TAC, and arXiv 2411.19378, section
3.2. Layer names are Libra's.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import cosine_similarity

from medvlm.connectors._layers import check_heads, format_grid
from medvlm.core.config import Config as Base
from medvlm.core.errors import ShapeError


class Config(Base):
    kind: Literal["temporal"]
    layers: int = Field(12, gt=0)
    """Number of tower layers that the tokens are made of: as many as the encoder's `layer` lists."""
    heads: int = Field(8, gt=0)
    """Attention heads. Libra uses as many as its language model, 32."""
    dropout: float = Field(0.1, ge=0, lt=1)


def tokens(config: Config, grid: tuple[int, ...], width: int | None = None) -> int:
    """Raises ShapeError for an encoder that does not give two images, or whose width `layers` does not divide."""
    if len(grid) != 3 or grid[0] != 2:
        raise ShapeError(
            f"compares two images, and the encoder gives a grid of {format_grid(grid)}; use encoder kind `slices` with"
            " stack: 2"
        )
    if width is not None and width % config.layers:
        raise ShapeError(
            f"layers: {config.layers} do not divide the encoder's width of {width}; say how many layers its"
            " `layer` lists"
        )
    check_heads(width and width // config.layers, config.heads)
    return math.prod(grid[1:])


def build(config: Config, in_width: int, out_width: int, grid: tuple[int, ...]) -> nn.Module:
    tokens(config, grid, in_width)
    return TemporalAlignment(config, in_width // config.layers, out_width)


class TemporalAlignment(nn.Module):
    """[N, 2 * T, layers * width] -> [N, T, out_width]; the prior image comes first, the current one second."""

    def __init__(self, config: Config, width: int, out_width: int):
        super().__init__()
        self.layers = config.layers

        def attention() -> nn.Module:
            return nn.MultiheadAttention(width, config.heads, batch_first=True, add_bias_kv=True)

        # Libra halves the number of layers from step to step: 12, 6, 3, 1.
        counts = [config.layers]
        while counts[-1] > 1:
            counts.append(counts[-1] // 2 if counts[-1] > 3 else 1)
        steps = [(a, b) for a, b in pairwise(counts)] or [(1, 1)]
        self.LFE = nn.Sequential(
            *[m for a, b in steps for m in (LayerExcitation(a, b), nn.Conv2d(a, b, kernel_size=1, bias=False))]
        )
        self.LFE_prior_bias = nn.Parameter(torch.zeros(()))
        self.cur_self_attention, self.prior_self_attention, self.cros_attention = attention(), attention(), attention()
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))
        self.mlp_attn = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(width, width),
            nn.Dropout(config.dropout),
        )
        widths = [width, *[out_width] * 4]
        self.mlp_final = nn.Sequential(*[m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.GELU())][:-1])
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, patches_NTE: torch.Tensor) -> torch.Tensor:
        by_layer = patches_NTE.unflatten(2, (self.layers, -1)).movedim(2, 1)  # [N, layers, 2 T, width]
        prior, current = (self.LFE(half).squeeze(1) for half in by_layer.chunk(2, dim=2))
        # The more the images resemble each other, the more of the learned bias is added to the prior image.
        alike = ((cosine_similarity(current.flatten(1), prior.flatten(1), dim=-1, eps=1e-6) + 1) / 2) ** 8
        prior = prior + (alike * self.LFE_prior_bias)[:, None, None]
        now = self.norm1(current + self._attend(self.cur_self_attention, current, current))
        before = self.norm2(prior + self._attend(self.prior_self_attention, prior, prior))
        both = self.norm3(now + self._attend(self.cros_attention, now, before))
        return self.mlp_final(self.norm4(current + self.mlp_attn(both)))

    def _attend(self, attention: nn.Module, queries: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        attended: torch.Tensor = self.dropout(attention(queries, seen, seen, need_weights=False)[0])
        return attended


class LayerExcitation(nn.Module):
    """Squeeze-and-excitation over layers (arXiv 1709.01507), like torchvision's SqueezeExcitation with GELU."""

    def __init__(self, count: int, squeezed: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(count, squeezed, 1), nn.Conv2d(squeezed, count, 1)

    def forward(self, maps_NLTE: torch.Tensor) -> torch.Tensor:
        scale = self.fc2(nn.functional.gelu(self.fc1(maps_NLTE.mean((2, 3), keepdim=True)))).sigmoid()
        return maps_NLTE * scale
