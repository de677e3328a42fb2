"""Predicts a number, such as an age in years or an ejection fraction in percent."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderFacts
from medvlm.decoders._linear import Linear, LinearConfig

OUTPUT = "quantities"


class Config(LinearConfig):
    kind: Literal["quantity"]
    classes: tuple[str, ...] = Field(min_length=1, max_length=1)
    """The `label` of the quantity in the card."""
    ALWAYS_EXCLUSIVE = False
    exclusive: bool = False
    mean: float = 0.0
    """About the mean of the training samples: an untrained decoder predicts about this number."""
    std: float = Field(1.0, gt=0)
    """About their standard deviation. Losses are in units of it, so that they are about 1 at first."""


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    config.check(grid)
    return DecoderFacts((1,))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    return Quantity(config, width, grid)


class Quantity(Linear):
    """Features -> numbers [N, 1], float32."""

    def __init__(self, config: Config, width: int, grid: tuple[int, ...]):
        super().__init__(config, width, 1, grid)
        self.mean, self.std = config.mean, config.std

    def forward(self, features: Features) -> torch.Tensor:
        return self.mean + self.std * super().forward(features).float()


def to_answers(config: Config, logits: torch.Tensor) -> torch.Tensor:
    return logits


def make_blank_label(config: Config) -> np.ndarray:
    return np.zeros(1, np.float32)
