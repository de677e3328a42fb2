"""Predicts class scores of a whole image or volume with one linear layer on its pooled features."""

from __future__ import annotations

from typing import Literal

from torch import nn

from medvlm.core.decoder_config import DecoderFacts
from medvlm.decoders._linear import Linear, LinearConfig

OUTPUT = "scores"


class Config(LinearConfig):
    kind: Literal["linear"]


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    config.check(grid)
    return DecoderFacts((len(config.classes),))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    """Features -> logits [N, classes]."""
    return Linear(config, width, len(config.classes), grid)
