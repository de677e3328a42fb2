"""What losses of sets share: which member of a set is compared with which truth."""

from __future__ import annotations

import torch


def assign(cost_QT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs with the least cost in all, min(Q, T) of them: their rows, in order, and their columns. What is no number
    is only paired if nothing else is left."""
    from scipy.optimize import linear_sum_assignment

    at, taken = linear_sum_assignment(torch.nan_to_num(cost_QT, nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy())
    return torch.as_tensor(at, device=cost_QT.device), torch.as_tensor(taken, device=cost_QT.device)
