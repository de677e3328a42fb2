"""One linear layer on the features of a whole image or volume. Several kinds of decoders give its outputs a meaning."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderConfig
from medvlm.decoders._attention import Attention, GatedAttention, check_grid


class LinearConfig(DecoderConfig):
    reads: Literal["pooled", "mean", "attention"] = "pooled"
    """`pooled`: the encoder's pooled output (a class token, or its own pooling). `mean`: the mean of its patch tokens.
    In many networks they are the same. `attention`: a weighted mean, whose weights are learned, for labels that depend
    on a few of many slices, tiles or images."""
    attention: Attention = Attention()
    dropout: float = Field(0.0, ge=0, lt=1)

    @property
    def most_media(self) -> int:
        return self.attention.most if self.reads == "attention" and self.attention.of == "media" else 1

    def check(self, grid: tuple[int, ...] | None) -> None:
        """Raises ShapeError for a grid that it cannot read."""
        if self.reads == "attention":
            check_grid(self.attention, grid)


class Linear(nn.Module):
    """Features -> [N, outputs]."""

    def __init__(self, config: LinearConfig, width: int, outputs: int, grid: tuple[int, ...]):
        super().__init__()
        config.check(grid)
        self.reads_patches = config.reads == "mean"
        self.attend = GatedAttention(config.attention, width) if config.reads == "attention" else None
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(width, outputs)

    def forward(self, features: Features) -> torch.Tensor:
        if self.attend is not None:
            whole_NE = self.attend(features)
        else:
            whole_NE = features.patches.mean(1) if self.reads_patches else features.pooled
        found: torch.Tensor = self.classify(self.dropout(whole_NE))
        return found
