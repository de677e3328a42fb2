"""Generalised Dice loss of masks: one overlap of all classes of a sample, in which small structures count as much as
large ones (Sudre et al. 2017, arXiv 1707.03237, section 2.1, GDL).

1 - (2 sum_k w_k sum(p t) + smooth) / (sum_k w_k (sum(p) + sum(t)) + smooth), computed by MONAI's GeneralizedDiceLoss.
A class without a marked pixel has the largest weight among the classes of its sample. A sample without any marked pixel
loses 0, whatever is predicted; add `dice` or cross-entropy if there are such samples.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._masks import add_up_samples, compare, count_samples, explain_unfit


class Config(HeadLoss):
    kind: Literal["generalized_dice"]
    classes_by: Literal["square", "simple", "uniform"] = "square"
    """The weight of a class: 1 / pixels ** 2 as in the paper, 1 / pixels, or 1."""
    smooth: float = Field(1e-5, gt=0)
    """Added to numerator and denominator, in weighted pixels."""
    background: bool = True
    """Whether the background of exclusive classes counts as a class, as in the paper."""


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return explain_unfit(output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    return count_samples(labels)


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, K, *pixels]. labels: as for dice. Pixels without a label are ignored."""
    from monai.losses import GeneralizedDiceLoss

    compared = compare(logits, labels, decoder, config.background)
    loss = GeneralizedDiceLoss(
        w_type=config.classes_by, smooth_nr=config.smooth, smooth_dr=config.smooth, reduction="none"
    )
    losses: torch.Tensor = loss(compared.soft, compared.truth)
    return add_up_samples(losses.flatten(1).sum(1), compared)
