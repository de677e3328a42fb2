"""A loss of image-text pairs: each right pair is to be ahead of each wrong one by a margin (VSE, arXiv 1411.2539, the
hinge over all wrong texts of an image)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.core.config import Config as Base


class Config(Base):
    kind: Literal["mylab.margin"]
    margin: float = Field(0.2, gt=0)


def start(config: Config) -> tuple[float, float | None]:
    """Log of the similarity's scale, and no bias."""
    return 0.0, None


def pair_loss(
    config: Config,
    images: torch.Tensor,
    texts: torch.Tensor,
    own: slice,
    log_scale: torch.Tensor,
    bias: torch.Tensor | None,
    same: torch.Tensor,
) -> torch.Tensor:
    """Sum over the rank's own images of the mean over wrong texts."""
    similarity = log_scale.exp() * images[own] @ texts.T
    is_right = same[own]
    right = (similarity * is_right).sum(1, keepdim=True) / is_right.sum(1, keepdim=True)
    behind = (config.margin - right + similarity).clamp(min=0).masked_fill(is_right, 0)
    return (behind.sum(1) / (~is_right).sum(1).clamp(min=1)).sum()
