"""Soft Dice loss of masks, for each sample and class.

1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth) over the pixels of one class in one sample; p: softmax or
sigmoid, t: 0 or 1. The mean over samples and classes equals MONAI's DiceLoss with smooth_nr = smooth_dr = smooth. The
terms of the denominator are not squared, unlike in V-Net (arXiv 1606.04797).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn.functional import one_hot

from medvlm.core.decoder_config import MISSING, DecoderConfig, HeadLoss


class Config(HeadLoss):
    kind: Literal["dice"]
    smooth: float = Field(1.0, gt=0)
    """Number of pixels added to numerator and denominator. For a class that is absent from a sample, the loss is then 0
    if nothing is predicted, and has a gradient if something is. With MONAI's default of 1e-5 that gradient nearly
    vanishes."""
    background: bool = False
    """Whether the background of exclusive classes counts as a class."""


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return "" if output == "maps" else "compares masks, but this decoder predicts one score per class"


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """Number of (sample, class) pairs with a labelled pixel. Exclusive labels do not tell the number of classes, so
    only samples are counted, and add_up() takes the mean over classes."""
    is_there = labels != MISSING
    return float(is_there.flatten(1 if decoder.exclusive else 2).any(-1).sum())


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, K, *pixels]. labels: int64 [N, *pixels], or [N, K, *pixels] of 0 and 1 if not exclusive. Pixels
    without a label are ignored."""
    if decoder.exclusive:
        is_there = (labels != MISSING)[:, None]
        truth = one_hot(labels.clamp(min=0), logits.shape[1]).movedim(-1, 1)
        soft = logits.float().softmax(1)
        if not config.background:
            truth, soft = truth[:, 1:], soft[:, 1:]
    else:
        is_there, truth, soft = labels != MISSING, labels.clamp(min=0), logits.float().sigmoid()
    is_there = is_there.expand_as(soft).flatten(2)
    truth, soft = truth.flatten(2) * is_there, soft.flatten(2) * is_there
    shared, either = (truth * soft).sum(-1), truth.sum(-1) + soft.sum(-1)
    losses_NK = 1 - (2 * shared + config.smooth) / (either + config.smooth)
    losses_NK = losses_NK * is_there.any(-1)
    return losses_NK.mean(1).sum() if decoder.exclusive else losses_NK.sum()
