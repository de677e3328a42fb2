"""Softmax contrast of images and texts, both ways (CLIP, arXiv 2103.00020, figure 3)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field

from medvlm.core.config import Config as Base


class Config(Base):
    kind: Literal["clip"]
    temperature: float = Field(0.07, gt=0)
    """At the start; learned from there. Lower where all images look alike: their small differences then count from the
    first step."""
    to_texts: float = Field(0.5, ge=0, le=1)
    """Share of finding the text of an image in the loss; the rest is finding the image of a text. ConVIRT's lambda is
    0.75."""


def start(config: Config) -> tuple[float, float | None]:
    """Log of the similarity's scale, and no bias."""
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
    """Sum over the rank's own pairs of the two cross entropies, weighed by `to_texts` (half each: their mean); divide
    by the number of all pairs.

    images, texts: unit vectors of all ranks [N, P]. own: which of them are this rank's. same: [N, N] bool, true
    where image and text tell of the same findings: such texts are all right answers, with equal shares (deviation
    from CLIP, which takes a duplicate report for a wrong answer; UniCL, arXiv 2204.03610, equation 3).
    """
    scale = log_scale.clamp(max=math.log(100)).exp()
    to_texts = scale * images[own] @ texts.T
    to_images = scale * texts[own] @ images.T
    share = same / same.sum(1, keepdim=True)
    losses = [-(share[own] * logits.log_softmax(-1)).sum() for logits in (to_texts, to_images)]
    return config.to_texts * losses[0] + (1 - config.to_texts) * losses[1]
