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
    return "" if output == "vectors" else "compares vectors; use a decoder of kind: unit_vector"


def count_known(labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """The number of images with a label."""
    return float((labels != MISSING).sum())


def add_up_anchors(vectors: torch.Tensor, labels: torch.Tensor, own: slice, of_anchors: OfAnchors) -> torch.Tensor:
    """The sum of the losses of the own anchors. vectors: [M, 1, D]; with L learners [M, 1 + L, D]: then each image is
    trained by one of them, and an anchor is compared with the images of its learner alone."""
    vectors, known_M = vectors.float(), labels != MISSING
    number_M = torch.arange(len(labels), device=labels.device)
    is_known_NM = known_M[own, None] & known_M & (number_M != number_M[own, None])
    is_same_NM = labels[own, None] == labels
    total = vectors.new_zeros(())
    learner_M = assign(vectors)
    for learner in range(max(1, vectors.shape[1] - 1)):
        of_learner_MD = vectors[:, learner + 1 if vectors.shape[1] > 1 else 0]
        is_together_NM = is_known_NM & (learner_M[own, None] == learner) & (learner_M == learner)
        similarity_NM = of_learner_MD[own] @ of_learner_MD.T
        total = total + of_anchors(similarity_NM, is_together_NM & is_same_NM, is_together_NM & ~is_same_NM).sum()
    return total


def assign(vectors: torch.Tensor) -> torch.Tensor:
    """The learner of each image, int64 [M]: the one in whose subspace most of the image's vector lies, among those who
    have not got their share of the images yet. Images with the clearest preference choose first."""
    count, learners = len(vectors), vectors.shape[1] - 1
    chosen_M = torch.zeros(count, dtype=torch.long)
    if learners < 2 or vectors.is_meta:
        return chosen_M.to(vectors.device)
    with torch.no_grad():
        share_ML = (vectors[:, :1] * vectors[:, 1:]).sum(-1).double().cpu()
    best_ML = share_ML.sort(1, descending=True).values
    left = [-(-count // learners)] * learners
    for image in (best_ML[:, 1] - best_ML[:, 0]).argsort(stable=True).tolist():
        learner = max((each for each in range(learners) if left[each]), key=lambda each: float(share_ML[image, each]))
        chosen_M[image], left[learner] = learner, left[learner] - 1
    return chosen_M.to(vectors.device)
