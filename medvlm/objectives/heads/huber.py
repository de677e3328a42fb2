"""Huber's loss of a predicted number, in units of the decoder's `std`: squared where the error is small, and a straight
line where it is large, so that single wrong labels pull less (Huber 1964, https://doi.org/10.1214/aoms/1177703732)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn.functional import huber_loss

from medvlm.core.decoder_config import DecoderConfig, HeadLoss


class Config(HeadLoss):
    kind: Literal["huber"]
    delta: float = Field(1.0, gt=0)
    """The error from which on it is a line, in units of `std`. A small one is about the absolute error, which is
    smallest at the median."""


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return "" if output == "quantities" else "needs a decoder of numbers, such as kind: quantity"


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    return float(len(labels))


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: Any) -> torch.Tensor:
    """logits, labels: [N, 1]."""
    return huber_loss(logits.float() / decoder.std, labels / decoder.std, reduction="sum", delta=config.delta)
