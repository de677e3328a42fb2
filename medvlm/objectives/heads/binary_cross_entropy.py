"""Sigmoid cross-entropy for classes that do not exclude each other: a binary classification per class."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn.functional import binary_cross_entropy_with_logits

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._classes import (
    Balance,
    Uncertain,
    explain_unfit,
    explain_unknown,
    soften,
    weigh_classes,
)


class Config(HeadLoss):
    kind: Literal["binary_cross_entropy"]
    uncertain: Uncertain | None = None
    """What uncertain labels count as: 1 is present, 0 absent, 0.7 a soft label; or class -> number, e.g. {edema: 1}. By
    default they are ignored. A soft label drawn anew for each sample (arXiv 1911.06475) has the same mean loss and
    gradient as its mean, so only the mean is offered."""
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Moves labels towards one half: 1 becomes 1 - smoothing / 2."""
    balance: Balance | None = None


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    if decoder.exclusive or output not in ("scores", "maps"):
        return "needs classes that do not exclude each other; use cross_entropy, or `exclusive: false`"
    return explain_unknown(config.uncertain, decoder) or explain_unfit(config.balance, decoder, output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """The number of labels that count."""
    return float(soften(labels, config.uncertain, 0.0, decoder)[1].sum())


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits, labels: [N, K] or [N, K, *pixels]; labels are 0 or 1."""
    wanted, counts = soften(labels, config.uncertain, config.smoothing, decoder)
    weights = None
    if config.balance is not None:
        weights = weigh_classes(config.balance, decoder, labels.ndim > 2).to(logits.device)
        weights = weights.view(-1, *[1] * (labels.ndim - 2))
    losses = binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none", pos_weight=weights)
    return (losses * counts).sum()
