"""Predicts which of several grades an image is of, from the lowest to the highest, such as those of a retinopathy.

Of K grades it has K - 1 logits; logit k says whether the grade is above k, if it is above k - 1 (CORN, arXiv
2111.08851). The probability to be above k is a product, so it never rises with k. CORAL (arXiv 1901.07884) has that by
one weight vector for all thresholds, so all of them see the same direction of the features; CORN lets each have its
own.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.core.decoder_config import DecoderFacts
from medvlm.decoders._linear import Linear, LinearConfig

OUTPUT = "grades"
ANSWERS = "scores"


class Config(LinearConfig):
    kind: Literal["ordinal"]
    classes: tuple[str, ...] = Field(min_length=2)
    """The grades, from the lowest to the highest."""
    ALWAYS_EXCLUSIVE = True


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    config.check(grid)
    return DecoderFacts((len(config.classes) - 1,))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    """Features -> logits [N, classes - 1]."""
    return Linear(config, width, len(config.classes) - 1, grid)


def to_answers(config: Config, logits: torch.Tensor) -> torch.Tensor:
    """The probability of each grade, [N, classes]."""
    above = logits.sigmoid().cumprod(1)
    ones, zeros = torch.ones_like(above[:, :1]), torch.zeros_like(above[:, :1])
    return torch.cat([ones, above], 1) - torch.cat([above, zeros], 1)
