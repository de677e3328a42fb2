"""Centreline Dice loss of masks, for each sample: how much of the centreline of each of prediction and truth is within
the other, so that a vessel that is interrupted costs more than one that is too thin (clDice, Shit et al. 2021, arXiv
2003.07311, section 3, with the soft skeleton of its algorithm 1).

It equals MONAI's SoftclDiceLoss, with MONAI's soft skeleton; the classes of a sample are compared together. It does not
see how thick things are, so it needs a second loss. The paper's sum is (1 - a) dice + a cl_dice, with a at most 0.5.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._masks import add_up_samples, compare, count_samples, explain_unfit

SMALL = 1e-4
"""Added to the sum of precision and sensitivity, as in MONAI."""


class Config(HeadLoss):
    kind: Literal["cl_dice"]
    iterations: int = Field(3, ge=0)
    """Of the soft skeleton: at least half the width of the thickest vessel, in pixels of the input."""
    smooth: float = Field(1.0, gt=0)
    """Number of pixels added to numerators and denominators."""
    background: bool = False
    """Whether the background of exclusive classes counts as a class."""


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return explain_unfit(output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    return count_samples(labels)


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, K, *pixels]. labels: as for dice. Pixels without a label are background for both, so what crosses
    them is cut for both."""
    from monai.losses.cldice import soft_skel

    compared = compare(logits, labels, decoder, config.background)
    soft, truth = compared.soft, compared.truth.float()

    def share(skeleton: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        within, total = (each.flatten(1).sum(1) for each in (skeleton * mask, skeleton))
        return (within + config.smooth) / (total + config.smooth)

    precision_N = share(soft_skel(soft, config.iterations), truth)
    sensitivity_N = share(soft_skel(truth, config.iterations), soft)
    losses_N = 1 - 2 * precision_N * sensitivity_N / (precision_N + sensitivity_N + SMALL)
    return add_up_samples(losses_N, compared)
