"""Sigmoid cross-entropy for classes that do not exclude each other: a binary classification per class."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from medvlm.core.decoder_config import MISSING, HeadLoss


class Config(HeadLoss):
    kind: Literal["binary_cross_entropy"]


def refuse(exclusive: bool, output: str) -> str:
    return "needs classes that do not exclude each other; use cross_entropy, or `exclusive: false`" if exclusive else ""


def weigh(config: Config, labels: torch.Tensor, exclusive: bool) -> float:
    """The number of labels that are not missing."""
    return float((labels != MISSING).sum())


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, exclusive: bool) -> torch.Tensor:
    """logits, labels: [N, K] or [N, K, *pixels]; labels are 0 or 1."""
    is_there = labels != MISSING
    wanted = labels.clamp(min=0).float()
    losses = binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    return (losses * is_there).sum()
