"""Clusters of vectors, and how well they agree with labels. Nothing is drawn, so all ranks find the same ones from the
same vectors.

Axes: N vectors, K clusters, D width.
"""

from __future__ import annotations

import torch

ROUNDS = 50


def find_centers(vectors_ND: torch.Tensor, count: int) -> torch.Tensor:
    """The centers of clusters [K, D], float64: k-means, begun with vectors that are far from each other (each next one
    is the vector that is farthest from all before). K is smaller if there are fewer different vectors."""
    points_ND = vectors_ND.double()
    first = (points_ND - points_ND.mean(0)).square().sum(1).argmax()
    chosen = [points_ND[first]]
    apart_N = (points_ND - chosen[0]).square().sum(1)
    while len(chosen) < count and apart_N.max() > 0:
        chosen.append(points_ND[apart_N.argmax()])
        apart_N = torch.minimum(apart_N, (points_ND - chosen[-1]).square().sum(1))
    centers_KD = torch.stack(chosen)
    for _ in range(ROUNDS):
        nearest_N = find_nearest(points_ND, centers_KD)
        # A cluster that has lost all of its vectors keeps its center.
        moved = [points_ND[nearest_N == k].mean(0) if (nearest_N == k).any() else c for k, c in enumerate(centers_KD)]
        if torch.equal(torch.stack(moved), centers_KD):
            break
        centers_KD = torch.stack(moved)
    return centers_KD


def find_nearest(vectors_ND: torch.Tensor, centers_KD: torch.Tensor) -> torch.Tensor:
    """int64 [N]: the center that each vector is nearest to, the first one of equally near ones."""
    return torch.cdist(vectors_ND.to(centers_KD), centers_KD, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


def measure_agreement(clusters_N: torch.Tensor, labels_N: torch.Tensor) -> float:
    """Normalized mutual information of two partitions, from 0 to 1: I(c, y) over the mean of both entropies. 1 if both
    have one part."""
    table = torch.zeros(int(clusters_N.max()) + 1, int(labels_N.max()) + 1, dtype=torch.float64)
    table.index_put_((clusters_N.cpu(), labels_N.cpu()), torch.ones((), dtype=torch.float64), accumulate=True)
    joint = table / table.sum()
    of_clusters, of_labels = (_entropy(joint.sum(axis)) for axis in (1, 0))
    shared = of_clusters + of_labels - _entropy(joint.flatten())
    mean = (of_clusters + of_labels) / 2
    return float(shared / mean) if mean > 0 else 1.0


def _entropy(shares: torch.Tensor) -> torch.Tensor:
    known = shares[shares > 0]
    return -(known * known.log()).sum()
