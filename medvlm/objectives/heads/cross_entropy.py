"""Softmax cross-entropy for exclusive classes, of samples or of pixels."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn.functional import cross_entropy

from medvlm.core.decoder_config import MISSING, DecoderConfig, HeadLoss
from medvlm.objectives.heads._classes import Balance, explain_unfit, weigh_classes


class Config(HeadLoss):
    kind: Literal["cross_entropy"]
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each label that is spread evenly over all classes (arXiv 1512.00567, section 7)."""
    balance: Balance | None = None


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    if not decoder.exclusive or output not in ("scores", "maps"):
        return "needs exclusive classes; use binary_cross_entropy, or `exclusive: true`"
    return explain_unfit(config.balance, decoder, output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """The number of labels that are not missing; with `balance`, the sum of the weights of their classes, as in
    torch."""
    there = labels[labels != MISSING]
    if config.balance is None:
        return float(len(there))
    return float(weigh_classes(config.balance, decoder, labels.ndim > 1)[there.cpu()].double().sum())


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, K] or [N, K, *pixels]. labels: int64 [N] or [N, *pixels]."""
    balance, weights = config.balance, None
    if balance is not None:
        weights = weigh_classes(balance, decoder, labels.ndim > 1).to(logits.device)
    return cross_entropy(
        logits.float(),
        labels,
        weight=weights,
        ignore_index=MISSING,
        reduction="sum",
        label_smoothing=config.smoothing,
    )
