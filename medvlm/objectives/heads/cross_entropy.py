"""Softmax cross-entropy for exclusive classes, of samples or of pixels."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import cross_entropy

from medvlm.core.decoder_config import MISSING, HeadLoss


class Config(HeadLoss):
    kind: Literal["cross_entropy"]


def refuse(exclusive: bool, output: str) -> str:
    return "" if exclusive else "needs exclusive classes; use binary_cross_entropy, or `exclusive: true`"


def weigh(config: Config, labels: torch.Tensor, exclusive: bool) -> float:
    """The number of labels that are not missing."""
    return float((labels != MISSING).sum())


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, exclusive: bool) -> torch.Tensor:
    """logits: [N, K] or [N, K, *pixels]. labels: int64 [N] or [N, *pixels]."""
    return cross_entropy(logits.float(), labels, ignore_index=MISSING, reduction="sum")
