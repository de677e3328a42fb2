"""What losses of metric learning share: which images of a batch are alike, and who trains them.

Axes: M images of all ranks, N of them of this rank, L learners, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from medvlm.core.decoder_config import MISSING, DecoderConfig

OfAnchors = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(similarities [N, M], whether two are alike, whether two differ) -> the loss of each anchor [N]."""


def explain_unfit(output: str) -> str:
    return "" if output == "vectors" else "compares vectors; use a decoder of kind: unit_vector or subspaces"


def count_known(labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """The number of images with a label."""
    return float((labels != MISSING).sum())


def add_up_anchors(vectors: torch.Tensor, labels: torch.Tensor, own: slice, of_anchors: OfAnchors) -> torch.Tensor:
    """The sum of the losses of the own anchors. vectors: [M, 1, D]; with L learners [M, 1 + L, D]: then an anchor is
    compared with the images of its learner alone, in the vectors of that learner, which are 0 for all other images."""
    vectors, known_M = vectors.float(), labels != MISSING
    number_M = torch.arange(len(labels), device=labels.device)
    is_known_NM = known_M[own, None] & known_M & (number_M != number_M[own, None])
    is_same_NM = labels[own, None] == labels
    total = vectors.new_zeros(())
    for of_learner_MD in vectors[:, min(1, vectors.shape[1] - 1) :].unbind(1):
        is_here_M = (of_learner_MD != 0).any(1)
        is_together_NM = is_known_NM & is_here_M[own, None] & is_here_M
        similarity_NM = of_learner_MD[own] @ of_learner_MD.T
        total = total + of_anchors(similarity_NM, is_together_NM & is_same_NM, is_together_NM & ~is_same_NM).sum()
    return total
