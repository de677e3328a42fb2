"""Tversky loss of masks whose factors follow the errors, for each sample and class.

1 - TP / (TP + a FP + (1 - a) FN) with a = FP / (FP + FN), kept between two bounds, so that the more frequent error
costs more. Gradients flow through a too.

The region term of DuPLUS's code (arXiv 2510.03483; BioMedIA-MBZUAI/DuPLUS at 924beb30b1), which adds half a binary
cross-entropy. With bounds of 0.5, it is `tversky` with alpha = beta = 0.5.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._masks import add_up_classes, compare, count_classes, explain_unfit


class Config(HeadLoss):
    kind: Literal["adaptive_tversky"]
    bounds: tuple[float, float] = (0.2, 0.8)
    """Smallest and largest factor of pixels that are found in vain; that of missed ones is 1 minus it."""
    smooth: float = Field(1.0, gt=0)
    """Number of pixels added to numerator and denominator, as in `dice`."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if not 0 <= self.bounds[0] <= self.bounds[1] <= 1:
            raise ValueError(f"bounds are {list(self.bounds)}; expected two rising shares, e.g. [0.2, 0.8]")
        return self


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return explain_unfit(output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    return count_classes(labels, decoder)


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, K, *pixels]. labels: as for dice. Pixels without a label are ignored."""
    compared = compare(logits, labels, decoder)
    truth, soft = compared.truth.flatten(2), compared.soft.flatten(2)
    shared, vain, missed = ((a * b).sum(-1) for a, b in ((soft, truth), (soft, 1 - truth), (1 - soft, truth)))
    share = (vain / (vain + missed).clamp(min=torch.finfo(torch.float32).eps)).clamp(*config.bounds)
    wrong = share * vain + (1 - share) * missed
    return add_up_classes(wrong / (shared + wrong + config.smooth), compared, decoder)
