"""Multi-similarity loss (Wang et al. 2019, arXiv 1904.06627, equations 10, 11 and 15), over the batch of all ranks.

Of each anchor, the images of other classes that are more similar than its least similar one of the same class, less
epsilon, and the images of its class that are less similar than its most similar one of another class, plus epsilon. All
of them count, the hardest most. An anchor without both adds 0, as in the authors' code.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._pairs import add_up_anchors, count_known, explain_unfit

JOINT = True


class Config(HeadLoss):
    kind: Literal["multi_similarity"]
    alpha: float = Field(2.0, gt=0)
    """How much the hardest image of the same class counts more than the others."""
    beta: float = Field(50.0, gt=0)
    """The same for images of other classes."""
    threshold: float = Field(0.5, ge=-1, le=1)
    """The similarity that images of one class should exceed (lambda of the paper; 0.5 in the authors' code)."""
    epsilon: float = Field(0.1, ge=0)


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return explain_unfit(output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    return count_known(labels, decoder)


def add_up(
    config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig, own: slice
) -> torch.Tensor:
    """logits: [M, 1, D] or [M, 1 + learners, D], of length 1. labels: int64 [M], the class."""

    def of_anchors(similarity_NM: torch.Tensor, same_NM: torch.Tensor, other_NM: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            least_N1 = similarity_NM.masked_fill(~same_NM, torch.inf).amin(1, keepdim=True)
            most_N1 = similarity_NM.masked_fill(~other_NM, -torch.inf).amax(1, keepdim=True)
            same_NM = same_NM & (similarity_NM < most_N1 + config.epsilon)
            other_NM = other_NM & (similarity_NM > least_N1 - config.epsilon)
        above_NM = similarity_NM - config.threshold
        losses_N = _soft_sum(-config.alpha * above_NM, same_NM) / config.alpha
        losses_N = losses_N + _soft_sum(config.beta * above_NM, other_NM) / config.beta
        return losses_N * (same_NM.any(1) & other_NM.any(1))

    return add_up_anchors(logits, labels, own, of_anchors)


def _soft_sum(values_NM: torch.Tensor, of_NM: torch.Tensor) -> torch.Tensor:
    """log(1 + sum of exp), over some of the values."""
    chosen_NM = values_NM.masked_fill(~of_NM, -torch.inf)
    return torch.cat([chosen_NM.new_zeros(len(chosen_NM), 1), chosen_NM], 1).logsumexp(1)
