"""The overlap loss of PAXRay (arXiv 2210.03416): all labels of a sample are one mask, so large ones decide more, and
labels that are absent cost nothing of their own.

The formula of the authors' code (ConstantinSeibold/multilabel_segmentation_paxray at 9f32b4f): 1 - (sum of p t + 1) /
(sum of p^2 + sum of t^2 + 1). It lacks the 2 of Dice in its numerator, so its least value is near one half; there the
sums are those of a batch, here those of a sample, so that they can be added up over ranks.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._masks import add_up_samples, compare, count_samples, explain_unfit


class Config(HeadLoss):
    kind: Literal["flat_dice"]
    smooth: float = Field(1.0, gt=0)
    """Number of pixels added to numerator and denominator."""


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return explain_unfit(output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    return count_samples(labels)


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, K, *pixels]. labels: as for dice. Pixels without a label are ignored."""
    compared = compare(logits, labels, decoder)
    truth, soft = compared.truth.flatten(1), compared.soft.flatten(1)
    shared = (truth * soft).sum(1) + config.smooth
    either = truth.sum(1) + soft.square().sum(1) + config.smooth
    return add_up_samples(1 - shared / either, compared)
