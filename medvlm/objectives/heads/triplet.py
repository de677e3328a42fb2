"""Triplet loss with semi-hard negatives (FaceNet, arXiv 1503.03832, section 3.2), over the batch of all ranks.

Of each anchor a and image p of its class: max(0, d(a, p) - d(a, n) + margin), d the squared distance of two unit
vectors, from 0 to 4. n is the nearest image of another class that is farther than p; if none is, the farthest one. An
anchor's loss is the mean over its p, and the loss the mean over all anchors, so that a large class does not count with
the square of its size; an anchor without a p or an n adds 0. A batch needs several images of each class.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._pairs import add_up_anchors, count_known, explain_unfit

JOINT = True


class Config(HeadLoss):
    kind: Literal["triplet"]
    margin: float = Field(0.2, gt=0)


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return explain_unfit(output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    return count_known(labels, decoder)


def add_up(
    config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig, own: slice
) -> torch.Tensor:
    """logits: [M, 1, D] or [M, 1 + learners, D], of length 1. labels: int64 [M], the class."""

    def of_anchors(similarity_NM: torch.Tensor, same_NM: torch.Tensor, other_NM: torch.Tensor) -> torch.Tensor:
        distance_NM = 2 - 2 * similarity_NM
        with torch.no_grad():
            farther_NPM = other_NM[:, None] & (distance_NM[:, None] > distance_NM[:, :, None])
            nearest_NP = distance_NM[:, None].masked_fill(~farther_NPM, torch.inf).argmin(2)
            farthest_N1 = distance_NM.masked_fill(~other_NM, -torch.inf).argmax(1, keepdim=True)
            chosen_NP = torch.where(farther_NPM.any(2), nearest_NP, farthest_N1)
        losses_NP = (distance_NM - distance_NM.gather(1, chosen_NP) + config.margin).clamp(min=0)
        counts_NP = same_NM & other_NM.any(1, keepdim=True)
        return (losses_NP * counts_NP).sum(1) / counts_NP.sum(1).clamp(min=1)

    return add_up_anchors(logits, labels, own, of_anchors)
