"""Tversky loss of masks, for each sample and class: a Dice loss in which missed pixels and pixels found in vain count
differently (Salehi et al. 2017, arXiv 1706.05721, equation 4).

1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth), with the products of probabilities and truth for the counts. It
equals MONAI's TverskyLoss, and `dice` with half the smoothing for alpha = beta = 0.5.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._masks import add_up_classes, compare, count_classes, explain_unfit


class Config(HeadLoss):
    kind: Literal["tversky"]
    alpha: float = Field(0.3, ge=0)
    """Factor of pixels that are found in vain. 0.3 and 0.7 gave the best results in the paper, on lesions."""
    beta: float = Field(0.7, ge=0)
    """Factor of pixels that are missed."""
    gamma: float = Field(1.0, ge=1)
    """Above 1, the loss of each class to the power of 1 / gamma, in which small losses count more (focal Tversky, arXiv
    1810.07842, equation 4, which uses 4 / 3)."""
    smooth: float = Field(1.0, gt=0)
    """Number of pixels added to numerator and denominator, as in `dice`."""
    background: bool = False
    """Whether the background of exclusive classes counts as a class."""


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return explain_unfit(output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    return count_classes(labels, decoder)


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, K, *pixels]. labels: as for dice. Pixels without a label are ignored."""
    compared = compare(logits, labels, decoder, config.background)
    truth, soft = compared.truth.flatten(2), compared.soft.flatten(2)
    shared, vain, missed = ((a * b).sum(-1) for a, b in ((soft, truth), (soft, 1 - truth), (1 - soft, truth)))
    wrong = config.alpha * vain + config.beta * missed
    losses_NK = wrong / (shared + wrong + config.smooth)
    if config.gamma > 1:  # the root has no finite slope at 0, where nothing is wrong
        losses_NK = losses_NK.clamp(min=torch.finfo(torch.float32).eps) ** (1 / config.gamma)
    return add_up_classes(losses_NK, compared, decoder)
