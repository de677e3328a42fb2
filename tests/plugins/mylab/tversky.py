"""A loss of masks that weighs what is missed and what is found in vain differently (arXiv 1706.05721)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.core.decoder_config import MISSING, DecoderConfig, HeadLoss

SMOOTH = 1.0
"""Pixels."""


class Config(HeadLoss):
    kind: Literal["mylab.tversky"]
    missed: float = Field(0.7, ge=0, le=1)
    """Share of the missed pixels; those found in vain have the rest."""


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return "takes masks of classes that do not exclude each other" if decoder.exclusive or output != "maps" else ""


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """Samples and classes with a pixel that is labelled."""
    return float((labels != MISSING).flatten(2).any(-1).sum())


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits, labels: [N, K, H, W]."""
    known = (labels != MISSING).flatten(2)
    soft, true = logits.float().sigmoid().flatten(2) * known, (labels == 1).flatten(2).float()
    shared, missed, vain = (soft * true).sum(-1), ((1 - soft) * true).sum(-1), (soft * (1 - true)).sum(-1)
    wrong = config.missed * missed + (1 - config.missed) * vain
    return ((1 - (shared + SMOOTH) / (shared + wrong + SMOOTH)) * known.any(-1)).sum()
