"""Softmax cross-entropy for exclusive classes, of samples or of pixels.

Pixels of none of the classes of a mask that does not speak of all lose -log of the joined probability of the background
and the other classes (_masks.py), without smoothing, with the weight of the background."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn.functional import cross_entropy

from medvlm.core.decoder_config import MISSING, DecoderConfig, HeadLoss
from medvlm.objectives.heads._classes import Balance, explain_unfit, weigh_classes
from medvlm.objectives.heads._masks import find_open, log_joined


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
    return float(weigh_classes(config.balance, decoder, labels.ndim > 1)[there.clamp(min=0).cpu()].double().sum())


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, K] or [N, K, *pixels]. labels: int64 [N] or [N, *pixels]."""
    balance, weights = config.balance, None
    if balance is not None:
        weights = weigh_classes(balance, decoder, labels.ndim > 1).to(logits.device)
    logits, is_open = logits.float(), find_open(labels)
    total = cross_entropy(
        logits,
        labels.masked_fill(is_open, MISSING),
        weight=weights,
        ignore_index=MISSING,
        reduction="sum",
        label_smoothing=config.smoothing,
    )
    if is_open.any():
        joined = (log_joined(logits, labels) * is_open).sum()
        total = total - (joined if weights is None else weights[0] * joined)
    return total
