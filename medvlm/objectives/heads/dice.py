"""Soft Dice loss of masks, for each sample and class by itself.

1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth) over the pixels of one class in one sample; p: softmax or
sigmoid, t: 0 or 1. The mean over samples and classes is what MONAI's DiceLoss gives with smooth_nr = smooth_dr =
smooth (V-Net, arXiv 1606.04797, squares the terms of the denominator; this does not).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn.functional import one_hot

from medvlm.core.decoder_config import MISSING, HeadLoss


class Config(HeadLoss):
    kind: Literal["dice"]
    smooth: float = Field(1.0, gt=0)
    """In pixels, added to both sides of the fraction. A class that a sample does not have then costs nothing where
    nothing is predicted, and has a gradient where something is. MONAI's default is 1e-5, nearly no such gradient."""
    background: bool = False
    """Whether the background of exclusive classes counts as a class."""


def refuse(exclusive: bool, output: str) -> str:
    return "" if output == "maps" else "compares masks, and this decoder gives one score a class"


def weigh(config: Config, labels: torch.Tensor, exclusive: bool) -> float:
    """The number of samples and classes with a pixel that is labelled. Exclusive labels do not say how many classes
    there are, so samples alone are counted, and add_up() takes the mean over their classes."""
    is_there = labels != MISSING
    return float(is_there.flatten(1 if exclusive else 2).any(-1).sum())


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, exclusive: bool) -> torch.Tensor:
    """logits: [N, K, *pixels]. labels: int64 [N, *pixels], or [N, K, *pixels] of 0 and 1 where not exclusive. Pixels
    without a label count for nothing."""
    if exclusive:
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
    return losses_NK.mean(1).sum() if exclusive else losses_NK.sum()
