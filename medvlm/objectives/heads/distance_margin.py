"""Margin loss (Wu et al. 2017, arXiv 1706.07567, equation 3) as Dynamic Subspace Learners trains with (code
adigasu/Dynamic_subspace_learners at 84fce0a), over the batch of all ranks.

Of each anchor a and image p of its class, with d the distance of two unit vectors, from 0 to 2: max(0, d(a, p) -
boundary + margin) + max(0, boundary - d(a, n) + margin). n is the nearest image of another class that is farther away
than `cutoff`; if none is, the farthest one. The loss is the mean over all such terms that are not 0.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._pairs import add_up_anchors, count_known, explain_unfit

JOINT = True


class Config(HeadLoss):
    kind: Literal["distance_margin"]
    margin: float = Field(0.2, gt=0)
    boundary: float = Field(1.2, gt=0, lt=2)
    """The distance that images of one class should stay below (beta). It is fixed, as in the code; the paper of the
    loss learns it."""
    cutoff: float = Field(0.5, ge=0, lt=2)


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return explain_unfit(output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    return count_known(labels, decoder)


def add_up(
    config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig, own: slice
) -> torch.Tensor:
    """logits: [M, 1, D] or [M, 1 + learners, D], of length 1 or 0. labels: int64 [M], the class."""

    def list_terms(
        similarity_NM: torch.Tensor, same_NM: torch.Tensor, other_NM: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # The root has no finite slope at 0, where two images have the same vector.
        distance_NM = (2 - 2 * similarity_NM).clamp(min=1e-8).sqrt()
        with torch.no_grad():
            far_NM = distance_NM.masked_fill(~other_NM | (distance_NM <= config.cutoff), torch.inf)
            farthest_N1 = distance_NM.masked_fill(~other_NM, -torch.inf).argmax(1, keepdim=True)
            chosen_N1 = torch.where(far_NM.isfinite().any(1, keepdim=True), far_NM.argmin(1, keepdim=True), farthest_N1)
            pairs_NM = same_NM & other_NM.any(1, keepdim=True)
        near_NM = (distance_NM - config.boundary + config.margin).clamp(min=0) * pairs_NM
        far_N1 = (config.boundary - distance_NM.gather(1, chosen_N1) + config.margin).clamp(min=0)
        return near_NM, far_N1 * pairs_NM

    def of_anchors(*given: torch.Tensor) -> torch.Tensor:
        near_NM, far_NM = list_terms(*given)
        return (near_NM + far_NM).sum(1)

    def count(*given: torch.Tensor) -> torch.Tensor:
        near_NM, far_NM = list_terms(*given)
        return ((near_NM > 0).sum(1) + (far_NM > 0).sum(1)).float()

    with torch.no_grad():
        # Of all ranks, so that each divides by the same number. The stage divides by that of images with a label.
        active = add_up_anchors(logits, labels, slice(0, len(labels)), count)
    return add_up_anchors(logits, labels, own, of_anchors) * count_known(labels, decoder) / active.clamp(min=1)
