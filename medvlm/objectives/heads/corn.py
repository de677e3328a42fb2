"""Loss of grades: for each threshold a binary classification of the samples that are above the one before (CORN).

Source: Shi, Cao and Raschka 2023, arXiv 2111.08851, equation 8: the sum over thresholds, divided by the number of all
these classifications.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from medvlm.core.decoder_config import DecoderConfig, HeadLoss


class Config(HeadLoss):
    kind: Literal["corn"]


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return "" if output == "grades" else "needs a decoder of grades, such as kind: ordinal"


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """The number of classifications: a sample of grade k takes part in those of the thresholds 0 to k."""
    return float((labels + 1).clamp(0, len(decoder.classes) - 1).sum())


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, K - 1]. labels: int64 [N], the number of the grade."""
    thresholds = torch.arange(logits.shape[1], device=logits.device)
    is_above, takes_part = labels[:, None] > thresholds, labels[:, None] >= thresholds
    losses = binary_cross_entropy_with_logits(logits.float(), is_above.float(), reduction="none")
    return (losses * takes_part).sum()
