"""Group-relative policy optimisation: advantages within a group, a clipped ratio, an optional KL term to a
reference."""

from __future__ import annotations

import torch


def advantages(rewards_PG: torch.Tensor, scale_by_deviation: bool) -> torch.Tensor:
    """[P prompts, G answers]: reward minus its group's mean, divided by its deviation with `scale_by_deviation`.

    Exactly 0 in a group of equal rewards: their float32 mean is off by a rounding error, which Adam would scale up.

    Source: GRPO, arXiv 2402.03300, section 4.1.2; without the division: Dr. GRPO, arXiv 2503.20783, section 3.2. The
    deviation is that of the population, so for groups of 2, 4, 8 the result is 1.41, 1.15, 1.07 times that of TRL,
    which divides by G - 1.
    """
    centred = rewards_PG - rewards_PG.mean(1, keepdim=True)
    centred = centred.masked_fill(rewards_PG.amax(1, keepdim=True) == rewards_PG.amin(1, keepdim=True), 0.0)
    return centred / (rewards_PG.std(1, keepdim=True, correction=0) + 1e-4) if scale_by_deviation else centred


def clip_ratio(
    log_L: torch.Tensor, old_L: torch.Tensor, advantage_L: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """[L] loss per token: -min(ratio * A, clamp(ratio) * A) (PPO, arXiv 1707.06347, equation 7); [L] whether the
    clip removed the gradient.

    Sums over tokens are divided by all tokens of the step, so every token has the same weight in long and short answers
    (DAPO, arXiv 2503.14476, equation 8; deviation from GRPO, which averages within each answer first).
    """
    ratio = (log_L - old_L).exp()
    free_L, held_L = ratio * advantage_L, ratio.clamp(1 - clip, 1 + clip) * advantage_L
    return -torch.minimum(free_L, held_L), held_L < free_L


def divergence(log_L: torch.Tensor, reference_L: torch.Tensor) -> torch.Tensor:
    """[L] unbiased, non-negative estimate of KL(policy || reference) (GRPO, arXiv 2402.03300, equation 4)."""
    gap = reference_L - log_L
    return gap.exp() - gap - 1
