"""Every image with every text as a yes or no question of its own (SigLIP, arXiv 2303.15343, algorithm 1)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch.nn.functional import logsigmoid

from medvlm.core.config import Config as Base


class Config(Base):
    kind: Literal["siglip"]


def start(config: Config) -> tuple[float, float | None]:
    """Log of the similarity's scale, and the bias: most pairs are none, and the model begins by saying so."""
    return math.log(10), -10.0


def pair_loss(
    config: Config,
    images: torch.Tensor,
    texts: torch.Tensor,
    own: slice,
    log_scale: torch.Tensor,
    bias: torch.Tensor | None,
    same: torch.Tensor,
) -> torch.Tensor:
    """Sum over the rank's own images and all texts; divide by the number of all pairs.

    images, texts: unit vectors of all ranks [N, P]. same: [N, N] bool, true where both tell of the same findings;
    a duplicate report counts as a right answer (deviation: SigLIP knows only the diagonal).
    """
    logits = log_scale.exp() * images[own] @ texts.T + (0 if bias is None else bias)
    sign = torch.where(same[own], 1.0, -1.0)
    return -logsigmoid(sign * logits).sum()
