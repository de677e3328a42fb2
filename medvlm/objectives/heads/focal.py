"""Focal loss: cross-entropy in which labels that are already predicted well count less (arXiv 1708.02002).

-alpha_t (1 - p_t) ^ gamma log p_t, p_t the probability of the label (equation 5). The mean is over all labels that
count; the paper divides by the number of anchors with an object, which classification has no counterpart for. Pixels of
none of the classes of a mask that does not speak of all are as in cross_entropy.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn.functional import logsigmoid

from medvlm.core.decoder_config import MISSING, DecoderConfig, HeadLoss
from medvlm.objectives.heads._classes import (
    Balance,
    Uncertain,
    explain_unfit,
    explain_unknown,
    soften,
    weigh_classes,
)
from medvlm.objectives.heads._masks import find_open, log_joined


class Config(HeadLoss):
    kind: Literal["focal"]
    gamma: float = Field(2.0, ge=1)
    """How fast labels that are predicted well lose weight. Without that (0) it would be cross-entropy; below 1 the
    gradient has no limit at p = 1."""
    balance: Balance | None = None
    """Weights of rare classes. With exclusive classes it is the class-balanced focal loss (arXiv 1901.05555)."""
    uncertain: Uncertain | None = None
    """As in binary_cross_entropy, for classes that do not exclude each other."""


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    if output not in ("scores", "maps"):
        return "compares classes, and this decoder predicts none"
    if config.uncertain is not None and decoder.exclusive:
        return "has `uncertain`, but labels of exclusive classes are never uncertain; remove it"
    return explain_unknown(config.uncertain, decoder) or explain_unfit(config.balance, decoder, output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """The number of labels that count."""
    if decoder.exclusive:
        return float((labels != MISSING).sum())
    return float(soften(labels, config.uncertain, 0.0, decoder)[1].sum())


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, K] or [N, K, *pixels]. labels: int64 [N] or [N, *pixels] for exclusive classes, else as logits."""
    logits, is_map = logits.float(), logits.ndim > 2
    weights_K = weigh_classes(config.balance, decoder, is_map).to(logits.device) if config.balance else None
    if decoder.exclusive:
        known = labels != MISSING
        logs = logits.log_softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
        if (is_open := find_open(labels)).any():
            logs = torch.where(is_open, log_joined(logits, labels), logs)
        losses = -((1 - logs.exp()) ** config.gamma) * logs
        return (losses * (1 if weights_K is None else weights_K[labels.clamp(min=0)]) * known).sum()
    wanted, counts = soften(labels, config.uncertain, 0.0, decoder)
    yes = -(logits.neg().sigmoid() ** config.gamma) * logsigmoid(logits)
    no = -(logits.sigmoid() ** config.gamma) * logsigmoid(-logits)
    if weights_K is not None:
        yes = yes * weights_K.view(-1, *[1] * (logits.ndim - 2))
    return ((wanted * yes + (1 - wanted) * no) * counts).sum()
