"""The knowledge bank of StructuralGLIP (arXiv 2502.16223, section 3.2): which of its prompts an image needs, and which
places of the image need it.

Both choose each other. A place scores by its attention to the bank, averaged in halves with the score of the place
above it in the next coarser level; the best PLACES * 4^n places of a level are kept, n = 0 for the coarsest. Of the
bank, the PROMPTS that these places attend to most are kept. In the authors' code (CapricornGuang/StructuralGLIP at
0f31ec1) every layer takes the branch without selection; this follows the paper.
Axes: T places of all levels, from the finest to the coarsest; P texts, the K phrases and then the bank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import interpolate

PLACES, PROMPTS = 5, 5


def choose(
    shares_NTP: torch.Tensor, grids: Sequence[tuple[int, int]], phrases: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(bool [N, T], the places that are kept; bool [N, P], the texts that are: all phrases, and some of the bank).
    shares_NTP: the attention of each place to each text, with a sum of 1 over the texts."""
    bank_NTB = shares_NTP[..., phrases:].detach().float()
    of_level = bank_NTB.sum(2).split([h * w for h, w in grids], 1)
    kept: list[torch.Tensor] = []
    above: torch.Tensor | None = None
    for number, (score_NT, grid) in enumerate(zip(reversed(of_level), reversed(grids), strict=True)):
        score = score_NT.unflatten(1, grid)[:, None]
        if above is not None:
            score = (score + interpolate(above, size=grid, mode="bilinear", align_corners=False)) / 2
        above = score
        kept.insert(0, _keep(score.flatten(1), PLACES * 4**number))
    kept_NT = torch.cat(kept, 1)
    mean_NB = (bank_NTB * kept_NT[..., None]).sum(1) / kept_NT.sum(1, keepdim=True)
    used_NB = _keep(mean_NB, PROMPTS)
    return kept_NT, torch.cat([used_NB.new_ones(len(used_NB), phrases), used_NB], 1)


def _keep(scores_NX: torch.Tensor, count: int) -> torch.Tensor:
    """bool [N, X]: the highest ones."""
    best = scores_NX.topk(min(count, scores_NX.shape[1]), 1).indices
    return torch.zeros_like(scores_NX, dtype=torch.bool).scatter(1, best, True)
