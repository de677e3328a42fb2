"""Gives each image a vector of length 1, so that images of one class are near each other (metric learning).

It answers no question: a vector is compared with those of other images (evaluation by `neighbours`, `knn` or
`linear_probe`).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import normalize

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderFacts
from medvlm.decoders._linear import Linear, LinearConfig

OUTPUT = "vectors"
ANSWERS = "scores"
GIVES_ANSWERS, GIVES_VECTORS = False, True


class Config(LinearConfig):
    kind: Literal["unit_vector"]
    ALWAYS_EXCLUSIVE = True
    width: int = Field(128, gt=0)
    """The length of the vector."""


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    config.check(grid)
    return DecoderFacts((1, config.width))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    return Vector(config, width, config.width, grid)


class Vector(Linear):
    """Features -> [N, 1, width], of length 1."""

    def forward(self, features: Features) -> torch.Tensor:
        return normalize(super().forward(features), dim=1)[:, None]
