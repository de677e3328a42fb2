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
    # The gradient passes where the scale is cut off, or one overshoot would hold it there for good.
    scale = (log_scale - (log_scale - log_scale.clamp(max=MAX_LOG_SCALE)).detach()).exp()
    to_texts = scale * images[own] @ texts.T
    to_images = scale * texts[own] @ images.T
    share = same / same.sum(1, keepdim=True)
    losses = [-(share[own] * logits.log_softmax(-1)).sum() for logits in (to_texts, to_images)]
    return config.to_texts * losses[0] + (1 - config.to_texts) * losses[1]
