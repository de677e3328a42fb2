"""Whether there is anything to mark: a binary cross-entropy for each mask that was asked for.

Axes: S masks.
"""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from medvlm.core.decoder_config import MISSING


def find_presence(labels_S1: torch.Tensor) -> torch.Tensor:
    """labels_S1: [S, 1, *size] of 0, 1 and MISSING. Returns int64 [S, 1]: 1 if a pixel is marked, 0 if none is, and
    MISSING if none is and some pixels have no label: what was not annotated may be marked there."""
    flat_S = labels_S1.flatten(1)
    is_marked_S, is_open_S = (flat_S == 1).any(1), (flat_S == MISSING).any(1)
    return torch.where(is_marked_S, 1, torch.where(is_open_S, MISSING, 0))[:, None]


def hide_absent(labels_S1: torch.Tensor) -> torch.Tensor:
    """The same labels, all of them MISSING where nothing is marked, so that losses of masks learn where things are, and
    the presence alone whether they are."""
    is_marked_S = (labels_S1.flatten(1) == 1).any(1)
    return torch.where(is_marked_S.view(-1, *[1] * (labels_S1.ndim - 1)), labels_S1, MISSING)


def count_known(labels_S1: torch.Tensor) -> float:
    return float((find_presence(labels_S1) != MISSING).sum())


def add_up_presence(logits_S1: torch.Tensor, labels_S1: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The sum of the cross-entropies of the masks of which the presence is known, and how many are rightly told.

    logits_S1: [S, 1]. labels_S1: [S, 1, *size] of 0, 1 and MISSING."""
    truth_S1 = find_presence(labels_S1)
    counts_S1 = truth_S1 != MISSING
    wanted_S1 = truth_S1.clamp(min=0).float()
    losses_S1 = binary_cross_entropy_with_logits(logits_S1.float(), wanted_S1, reduction="none")
    return (losses_S1 * counts_S1).sum(), float((((logits_S1 > 0) == (truth_S1 == 1)) & counts_S1).sum())
