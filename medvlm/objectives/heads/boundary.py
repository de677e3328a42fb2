"""Boundary loss of masks, for each sample and class: the mean over its pixels of probability times distance to the
boundary of what is marked, negative within (Kervadec et al. 2019, arXiv 1812.07032, equation 5).

It equals MONAI's BoundaryLoss. Distances are in pixels of the input. It is smallest, below 0, for a perfect mask, and a
class that is marked nowhere or everywhere has no boundary and loses 0. So it needs a second loss, such as `dice`. The
paper raises its weight from 0.01 during training; here it is constant.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._masks import add_up_classes, compare, count_classes, explain_unfit


class Config(HeadLoss):
    kind: Literal["boundary"]
    background: bool = False
    """Whether the background of exclusive classes counts as a class."""


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return explain_unfit(output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    return count_classes(labels, decoder)


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, K, *pixels]. labels: as for dice. Pixels without a label are ignored, and are no part of a class
    where distances are measured."""
    compared = compare(logits, labels, decoder, config.background)
    marked = compared.truth.flatten(0, 1).bool().cpu().numpy()
    distances = torch.from_numpy(np.stack([measure(mask) for mask in marked])) if len(marked) else torch.zeros(0)
    distances = distances.to(logits.device).view_as(compared.soft)
    labelled_NK = compared.is_there.flatten(2).sum(-1).clamp(min=1)
    return add_up_classes((compared.soft * distances).flatten(2).sum(-1) / labelled_NK, compared, decoder)


def measure(mask: np.ndarray) -> np.ndarray:
    """The distance of each pixel to the boundary of a mask, in pixels, float32: to the nearest marked pixel outside of
    it; 0 for its outermost pixels and negative within. All 0 without a boundary."""
    from scipy.ndimage import distance_transform_edt

    if not mask.any() or mask.all():
        return np.zeros(mask.shape, np.float32)
    outside, inside = distance_transform_edt(~mask), distance_transform_edt(mask)
    return np.where(mask, 1 - inside, outside).astype(np.float32)
