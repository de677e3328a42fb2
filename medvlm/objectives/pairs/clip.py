"""Softmax contrastive loss, from images to texts and from texts to images (CLIP, arXiv 2103.00020, figure 3)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field

from medvlm.core.config import Config as Base

MAX_LOG_SCALE = math.log(100)
"""The stage sets a larger parameter back to it after every step, as CLIP does (arXiv 2103.00020, section 2.5)."""


class Config(Base):
    kind: Literal["clip"]
    temperature: float = Field(0.07, gt=0)
    """Initial value; it is learned. Set it lower if all images look alike, so that small differences count from the
    first step."""
    to_texts: float = Field(0.5, ge=0, le=1)
    """Weight of the loss from images to texts; the rest is that from texts to images. ConVIRT's lambda is 0.75."""


def start(config: Config) -> tuple[float, float | None]:
    """Initial log scale, and no bias."""
    return math.log(1 / config.temperature), None


def pair_loss(
    config: Config,
    images: torch.Tensor,
    texts: torch.Tensor,
    own: slice,
    log_scale: torch.Tensor,
    bias: torch.Tensor | None,
    same: torch.Tensor,
) -> torch.Tensor:
    """Sum over the rank's own pairs of the two cross-entropies, weighted by `to_texts` (0.5: their mean); divide by the
    number of all pairs.

    images, texts: unit vectors of all ranks [N, P]. own: which of them are this rank's. same: [N, N] bool, true if
    image and text describe the same findings. All such texts are correct, with equal shares (deviation from CLIP, where
    a duplicate report is wrong; UniCL, arXiv 2204.03610, equation 3).
    """
    scale = find_scale(log_scale)
    to_texts = scale * images[own] @ texts.T
    to_images = scale * texts[own] @ images.T
    share = same / same.sum(1, keepdim=True)
    losses = [-(share[own] * logits.log_softmax(-1)).sum() for logits in (to_texts, to_images)]
    return config.to_texts * losses[0] + (1 - config.to_texts) * losses[1]


def find_scale(log_scale: torch.Tensor) -> torch.Tensor:
    # The gradient passes where the scale is cut off, or one overshoot would hold it there for good.
    return (log_scale - (log_scale - log_scale.clamp(max=MAX_LOG_SCALE)).detach()).exp()


def weigh_directions(config: Config) -> tuple[float, float]:
    return config.to_texts, 1 - config.to_texts


def summarize(logits: torch.Tensor, same: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What a row's loss needs of some of its columns: log-sum-exp, sum of the matches' logits, and their number."""
    return logits.logsumexp(1), (logits * same).sum(1), same.sum(1)


def join(some: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """What a row's loss needs of both sets of columns."""
    return torch.logaddexp(some[0], others[0]), some[1] + others[1], some[2] + others[2]


def sum_rows(log_sum: torch.Tensor, matched: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    return (log_sum - matched / matches).sum()


def slope(
    logits: torch.Tensor, same: torch.Tensor, log_sum: torch.Tensor, matched: torch.Tensor, matches: torch.Tensor
) -> torch.Tensor:
    """The derivative of each row's loss by its logits."""
    return (logits - log_sum[:, None]).exp() - same.to(logits) / matches[:, None]
