"""Sigmoid loss: each pair of an image and a text is a binary classification (SigLIP, arXiv 2303.15343, algorithm 1)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch.nn.functional import logsigmoid

from medvlm.core.config import Config as Base


class Config(Base):
    kind: Literal["siglip"]


def start(config: Config) -> tuple[float, float | None]:
    """Initial log scale and bias. The bias is negative because most pairs do not match."""
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

    images, texts: unit vectors of all ranks [N, P]. same: [N, N] bool, true if image and text describe the same
    findings. A duplicate report counts as a match (deviation: in SigLIP, only the diagonal does).
    """
    logits = find_scale(log_scale) * images[own] @ texts.T + (0 if bias is None else bias)
    sign = torch.where(same[own], 1.0, -1.0)
    return -logsigmoid(sign * logits).sum()


def find_scale(log_scale: torch.Tensor) -> torch.Tensor:
    return log_scale.exp()


def weigh_directions(config: Config) -> tuple[float, float]:
    """A pair counts once, in the row of its image."""
    return 1.0, 0.0


def summarize(logits: torch.Tensor, same: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The loss of a row over some of its columns."""
    return (-logsigmoid(torch.where(same, logits, -logits)).sum(1),)


def join(some: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (some[0] + others[0],)


def sum_rows(losses: torch.Tensor) -> torch.Tensor:
    return losses.sum()


def slope(logits: torch.Tensor, same: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """The derivative of each row's loss by its logits."""
    return logits.sigmoid() - same.to(logits)
