"""Predicts class scores of a whole image or volume with one linear layer on its pooled features."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderConfig, DecoderFacts

OUTPUT = "scores"


class Config(DecoderConfig):
    kind: Literal["linear"]
    reads: Literal["pooled", "mean"] = "pooled"
    """`pooled`: the encoder's pooled output (a class token, or its own pooling). `mean`: the mean of its patch tokens.
    In many networks they are the same."""
    dropout: float = Field(0.0, ge=0, lt=1)


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    return DecoderFacts((len(config.classes),))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    return Scores(config, width)


class Scores(nn.Module):
    """Features -> logits [N, classes]."""

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.reads_patches = config.reads == "mean"
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(width, len(config.classes))

    def forward(self, features: Features) -> torch.Tensor:
        whole_NE = features.patches.mean(1) if self.reads_patches else features.pooled
        logits: torch.Tensor = self.classify(self.dropout(whole_NE))
        return logits
