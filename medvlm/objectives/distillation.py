"""How far the next-token distributions of a student are from those of a teacher.

Axes: L trained tokens, V vocabulary.
"""

from __future__ import annotations

import math

import torch


def find_divergence(
    student_LV: torch.Tensor, teacher_LV: torch.Tensor, beta: float, temperature: float = 1.0
) -> torch.Tensor:
    """[L], in nats, from logits: the generalised Jensen-Shannon divergence, with q the teacher, p the student and m =
    beta q + (1 - beta) p their mixture,

        beta KL(q || m) + (1 - beta) KL(p || m),

    and KL(q || p) for a beta of 0, KL(p || q) (reverse) for 1. Logits are divided by the temperature first.

    Source: GKD, arXiv 2306.13649, equation 1; the limits as in TRL.
    """
    dtype = torch.promote_types(student_LV.dtype, torch.float32)
    p_LV, q_LV = ((each.to(dtype) / temperature).log_softmax(-1) for each in (student_LV, teacher_LV))
    if beta in (0.0, 1.0):
        return _find_kl(q_LV, p_LV) if beta == 0 else _find_kl(p_LV, q_LV)
    mixture_LV = torch.logaddexp(q_LV + math.log(beta), p_LV + math.log1p(-beta))
    return beta * _find_kl(q_LV, mixture_LV) + (1 - beta) * _find_kl(p_LV, mixture_LV)


def _find_kl(of_LV: torch.Tensor, to_LV: torch.Tensor) -> torch.Tensor:
    """[L] KL(of || to), from log-probabilities."""
    return (of_LV.exp() * (of_LV - to_LV)).sum(-1)
