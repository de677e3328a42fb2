"""Predicts how soon something happens, as the logarithm of a hazard in relation to that of other patients (Cox 1972).

It orders patients. It gives no probability for a time: that needs the baseline hazard, which its loss leaves open.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from medvlm.core.decoder_config import DecoderFacts
from medvlm.decoders._linear import Linear, LinearConfig

OUTPUT = "log_hazard_ratio"
ANSWERS = "survival"


class Config(LinearConfig):
    kind: Literal["proportional_hazards"]
    classes: tuple[str, ...] = Field(min_length=1, max_length=1)
    """The `event` of the card."""
    ALWAYS_EXCLUSIVE = False
    exclusive: bool = False


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    config.check(grid)
    return DecoderFacts((1,))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    """Features -> log hazard ratios [N, 1]."""
    return Linear(config, width, 1, grid)


def to_answers(config: Config, logits: torch.Tensor) -> torch.Tensor:
    return logits


def make_blank_label(config: Config) -> np.ndarray:
    """(time, whether it happened then)."""
    return np.ones(2, np.float32)
