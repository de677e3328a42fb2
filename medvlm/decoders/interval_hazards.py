"""Predicts how soon something happens, as the probability in each of several intervals of time that it happens there if
it did not before (nnet-survival, Gensheimer and Narasimhan 2019, https://doi.org/10.7717/peerj.6257)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import nn

from medvlm.core.decoder_config import DecoderFacts
from medvlm.decoders._linear import Linear, LinearConfig

OUTPUT = "hazard_logits"
ANSWERS = "survival"


class Config(LinearConfig):
    kind: Literal["interval_hazards"]
    classes: tuple[str, ...] = Field(min_length=1, max_length=1)
    """The `event` of the card."""
    ALWAYS_EXCLUSIVE = False
    exclusive: bool = False
    edges: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    """The ends of the intervals, in the unit of time of the card; the first begins at 0. Intervals in which about
    equally many events happen learn equally well. What happens after the last one is not told apart."""

    @field_validator("edges")
    @classmethod
    def _rise(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if sorted(set(edges)) != list(edges):
            raise ValueError("expected times that rise, e.g. [180, 365, 730]")
        return edges


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    config.check(grid)
    return DecoderFacts((len(config.edges),))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    """Features -> logits of the hazard in each interval, [N, intervals]."""
    return Linear(config, width, len(config.edges), grid)


def to_answers(config: Config, logits: torch.Tensor) -> torch.Tensor:
    """[N, 2, intervals]: the ends of the intervals, and the probability that it has not happened by then."""
    survival = logits.double().neg().sigmoid().cumprod(1)
    edges = torch.tensor(config.edges, dtype=torch.float64, device=logits.device)
    return torch.stack([edges.expand_as(survival), survival], 1)


def make_blank_label(config: Config) -> np.ndarray:
    """(time, whether it happened then)."""
    return np.ones(2, np.float32)
