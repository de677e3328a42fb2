"""Soft Dice loss of masks, for each sample and class.

1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth) over the pixels of one class in one sample; p: softmax or
sigmoid, t: 0 or 1. The mean over samples and classes equals MONAI's DiceLoss with smooth_nr = smooth_dr = smooth. With
cross-entropy or focal as a second loss of the decoder, the sum is that of MONAI's DiceCELoss and DiceFocalLoss.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._masks import add_up_classes, compare, count_classes, explain_unfit


class Config(HeadLoss):
    kind: Literal["dice"]
    smooth: float = Field(1.0, gt=0)
    """Number of pixels added to numerator and denominator. For a class that is absent from a sample, the loss is then 0
    if nothing is predicted, and has a gradient if something is. With MONAI's default of 1e-5 that gradient nearly
    vanishes."""
    background: bool = False
    """Whether the background of exclusive classes counts as a class."""
    squared: bool = False
    """Squares the terms of the denominator, as in V-Net (arXiv 1606.04797, section 3; squared_pred in MONAI)."""


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return explain_unfit(output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    return count_classes(labels, decoder)


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, K, *pixels]. labels: int64 [N, *pixels], or [N, K, *pixels] of 0 and 1 if not exclusive. Pixels
    without a label are ignored."""
    compared = compare(logits, labels, decoder, config.background)
    truth, soft = compared.truth.flatten(2), compared.soft.flatten(2)
    shared = (truth * soft).sum(-1)
    either = truth.sum(-1) + (soft.square() if config.squared else soft).sum(-1)
    return add_up_classes(1 - (2 * shared + config.smooth) / (either + config.smooth), compared, decoder)
