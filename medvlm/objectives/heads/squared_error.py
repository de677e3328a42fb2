"""Squared error of a predicted number, in units of the decoder's `std`. It is smallest at the mean."""

from __future__ import annotations

from typing import Any, Literal

import torch

from medvlm.core.decoder_config import DecoderConfig, HeadLoss


class Config(HeadLoss):
    kind: Literal["squared_error"]


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return "" if output == "quantities" else "needs a decoder of numbers, such as kind: quantity"


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    return float(len(labels))


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: Any) -> torch.Tensor:
    """logits, labels: [N, 1]."""
    errors: torch.Tensor = (logits.float() - labels) / decoder.std
    return errors.square().sum()
