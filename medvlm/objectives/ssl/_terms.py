"""The terms of self-distillation as functions of tensors.

Axes: N samples of this rank, G global views, V views of the student (the global ones first), K prototypes or width,
M masked patches of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn.functional import normalize

SumRows = Callable[[torch.Tensor], torch.Tensor]
"""[n, K] -> the sum [K] of the rows of all ranks."""


def compare_views(teacher_NGK: torch.Tensor, student_NVK: torch.Tensor) -> torch.Tensor:
    """The sum over samples of the mean of teacher . student over all pairs of a teacher's and another of the student's
    views."""
    pairs_NGV = torch.einsum("ngk,nvk->ngv", teacher_NGK, student_NVK)
    views_G, views_V = teacher_NGK.shape[1], student_NVK.shape[1]
    is_other_GV = ~torch.eye(views_G, views_V, dtype=torch.bool, device=pairs_NGV.device)
    return (pairs_NGV * is_other_GV).sum() / (views_G * views_V - min(views_G, views_V))


def centre(logits: torch.Tensor, centre_K: torch.Tensor, temperature: float) -> torch.Tensor:
    """The teacher's probabilities (DINO, arXiv 2104.14294, section 3.1)."""
    return ((logits - centre_K) / temperature).softmax(-1)


def sinkhorn(
    logits_BK: torch.Tensor, temperature: float, valid_B: torch.Tensor, sum_rows: SumRows, rounds: int = 3
) -> torch.Tensor:
    """The teacher's probabilities, such that every prototype gets an equal share of the valid rows of all ranks
    (SwAV, arXiv 2006.09882, section 3.1; DINOv2, arXiv 2304.07193, section 4). Other rows are 0."""
    shares_BK = (logits_BK / temperature).exp() * valid_B[:, None]
    least = torch.finfo(shares_BK.dtype).tiny
    for _ in range(rounds):
        shares_BK = shares_BK / sum_rows(shares_BK).clamp(min=least)
        shares_BK = shares_BK / shares_BK.sum(1, keepdim=True).clamp(min=least)
    return shares_BK


def spread_out(own_NE: torch.Tensor, all_BE: torch.Tensor, first: int) -> torch.Tensor:
    """KoLeo: the sum over this rank's vectors of -log of the distance to the nearest other one of all ranks, of unit
    vectors (arXiv 1806.03198, equation 2). first: the row of own_NE[0] in all_BE."""
    own_NE, all_BE = normalize(own_NE, dim=1), normalize(all_BE, dim=1)
    with torch.no_grad():
        likeness_NB = own_NE @ all_BE.T
        rows = torch.arange(len(own_NE), device=own_NE.device)
        likeness_NB[rows, first + rows] = -2
        nearest_N = likeness_NB.argmax(1)
    distance_N = (own_NE - all_BE[nearest_N] + 1e-8).norm(dim=1)
    return -(distance_N + 1e-8).log().sum()


def measure_coding_rate(vectors_BK: torch.Tensor, epsilon: float) -> torch.Tensor:
    """gamma / 2 * logdet(I + K / (B epsilon) Z^T Z), with gamma = (K + B) / (K B) (SimDINO, arXiv 2502.10385, equation
    9; gamma as in its code)."""
    count, width = vectors_BK.shape
    scatter_KK = vectors_BK.T @ vectors_BK * (width / (count * epsilon))
    inner_KK = torch.eye(width, device=vectors_BK.device, dtype=vectors_BK.dtype) + scatter_KK
    half_logdet = torch.linalg.cholesky(inner_KK).diagonal().log().sum()
    return half_logdet * (width + count) / (width * count)


def measure_information(teacher_BK: torch.Tensor) -> float:
    """The information in nats that the teacher's choice has on the image: the entropy of the mean distribution less the
    mean entropy. 0 if all images get the same distribution."""
    found_BK = teacher_BK.double()
    return float(_measure_entropy(found_BK.mean(0)) - _measure_entropy(found_BK).mean())


def _measure_entropy(shares: torch.Tensor) -> torch.Tensor:
    return -torch.xlogy(shares, shares).sum(-1)


def rise(first: float, last: float, share: float, done: float) -> float:
    """Linear from `first` to `last` over this share of the steps."""
    return last if done >= share else first + (last - first) * done / share


def follow_cosine(first: float, last: float, done: float) -> float:
    """Half a cosine from `first` to `last` over all steps."""
    return last - (last - first) * 0.5 * (1 + math.cos(math.pi * done))
