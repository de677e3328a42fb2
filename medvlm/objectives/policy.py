"""Formulas that objectives for policies share (medvlm/objectives/policies): advantages within a group, a clipped ratio,
weights of tokens, the KL term to a reference, and the correction for an engine that computes otherwise.

Axes: P prompts, G answers to each, A answers, L tokens of all answers.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator
from torch.nn.utils.rnn import pad_sequence

from medvlm.core.config import Config

EPSILON = 1e-4
"""Added to deviations, as in TRL."""


class Correction(Config):
    """How losses are corrected if the engine that draws the answers computes other log-probabilities than the model in
    training: each token is weighed by the ratio of the two probabilities, within bounds."""

    bounds: tuple[float, float] = (0.0, 2.0)
    """The smallest and the largest weight."""
    outside: Literal["truncate", "mask"] = "truncate"
    """Whether a ratio beyond the bounds is set to the bound, or its tokens are left out (weight 0)."""
    of: Literal["token", "answer"] = "token"
    """Whether each token has its own ratio, or all tokens of an answer the product of theirs."""

    @model_validator(mode="after")
    def _check_bounds(self) -> Correction:
        low, high = self.bounds
        if not 0 <= low <= 1 <= high:
            raise ValueError(
                f"bounds: [{low:g}, {high:g}] must hold 1, the ratio of equal probabilities, and start at 0 or above"
            )
        return self


def centre(rewards_PG: torch.Tensor) -> torch.Tensor:
    """[P, G]: reward minus its group's mean. Exactly 0 in a group of equal rewards: their float32 mean is off by a
    rounding error, which Adam would scale up."""
    centred = rewards_PG - rewards_PG.mean(1, keepdim=True)
    return centred.masked_fill(rewards_PG.amax(1, keepdim=True) == rewards_PG.amin(1, keepdim=True), 0.0)


def advantages(rewards_PG: torch.Tensor, scale_by_deviation: bool, correction: int = 0) -> torch.Tensor:
    """[P, G]: reward minus its group's mean, divided by its deviation with `scale_by_deviation`.

    Source: GRPO, arXiv 2402.03300, section 4.1.2; without the division: Dr. GRPO, arXiv 2503.20783, section 3.2. With
    correction 0 the deviation is that of the population, so for groups of 2, 4, 8 the result is 1.41, 1.15, 1.07 times
    that of TRL, which divides by G - 1 (correction 1).
    """
    centred = centre(rewards_PG)
    if not scale_by_deviation:
        return centred
    return centred / (rewards_PG.std(1, keepdim=True, correction=correction) + EPSILON)


def clip_ratio(
    log_L: torch.Tensor, old_L: torch.Tensor, advantage_L: torch.Tensor, clip: float, high: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """[L] loss per token: -min(ratio * A, clamp(ratio) * A) (PPO, arXiv 1707.06347, equation 7); [L] whether the
    clip removed the gradient.

    The ratio is held between 1 - clip and 1 + high (DAPO, arXiv 2503.14476, equation 10), or 1 + clip without `high`.
    """
    return clip_by_advantage((log_L - old_L).exp(), advantage_L, clip, high)


def clip_by_advantage(
    ratio_L: torch.Tensor, advantage_L: torch.Tensor, clip: float, high: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, of ratios."""
    free_L = ratio_L * advantage_L
    held_L = ratio_L.clamp(1 - clip, 1 + (clip if high is None else high)) * advantage_L
    return -torch.minimum(free_L, held_L), held_L < free_L


def find_answer_ratio(
    log_L: torch.Tensor, old_L: torch.Tensor, lengths_A: torch.Tensor, reduce: Literal["sum", "mean"]
) -> torch.Tensor:
    """[L]: the ratio of the probabilities of the whole answer that a token belongs to (`sum` of the logarithms), or its
    geometric mean over the tokens (`mean`). Its gradient is that of all tokens of the answer."""
    log_ratio_A = sum_answers(log_L - old_L, lengths_A)
    if reduce == "mean":
        log_ratio_A = log_ratio_A / lengths_A.to(log_L.device)
    return spread_over_answers(log_ratio_A.exp(), lengths_A)


def sum_answers(values_L: torch.Tensor, lengths_A: torch.Tensor) -> torch.Tensor:
    """[A]: the sum over the tokens of each answer. Padded, because adding at indices is not repeatable on a GPU."""
    return pad_sequence(values_L.split(lengths_A.tolist()), batch_first=True).sum(1)


def spread_over_answers(values_A: torch.Tensor, lengths_A: torch.Tensor) -> torch.Tensor:
    """[L]: for each token the value of its answer."""
    return torch.cat([value.expand(n) for value, n in zip(values_A, lengths_A.tolist(), strict=True)])


def weigh_tokens(lengths_A: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Every token weighs the same, in long and short answers (DAPO, arXiv 2503.14476, equation 8; a deviation from
    GRPO, which averages within each answer first). See Objective.share_out."""
    return (lengths_A > 0).float(), float(lengths_A.sum())


def weigh_answers(lengths_A: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Every answer weighs the same: the mean over its tokens, and then over answers."""
    is_kept_A = lengths_A > 0
    return is_kept_A / lengths_A.clamp(min=1), float(is_kept_A.sum())


def weigh_by_limit(lengths_A: torch.Tensor, limit: int) -> tuple[torch.Tensor, float]:
    """The sum over the tokens of an answer, divided by the same number for all of them (Dr. GRPO, arXiv 2503.20783,
    listing 1)."""
    is_kept_A = lengths_A > 0
    return is_kept_A.float(), float(is_kept_A.sum() * limit)


def divergence(log_L: torch.Tensor, reference_L: torch.Tensor) -> torch.Tensor:
    """[L] unbiased, non-negative estimate of KL(policy || reference) (GRPO, arXiv 2402.03300, equation 4)."""
    gap = reference_L - log_L
    return gap.exp() - gap - 1


@torch.no_grad()
def correct(
    old_L: torch.Tensor, engine_L: torch.Tensor, lengths_A: torch.Tensor, config: Correction
) -> tuple[torch.Tensor, torch.Tensor]:
    """[L] the weight of each token, and [L] whether its ratio was out of bounds. old_L: log-probabilities under the
    model in training when it got the answers. engine_L: under the engine that drew them.

    Source: truncated importance sampling as in TRL 1.16 (`vllm_importance_sampling_mode`)."""
    gap_L = old_L - engine_L
    if config.of == "answer":
        gap_L = spread_over_answers(sum_answers(gap_L, lengths_A), lengths_A)
    ratio_L, (low, high) = gap_L.exp(), config.bounds
    is_beyond_L = (ratio_L < low) | (ratio_L > high)
    held_L = ratio_L.clamp(low, high) if config.outside == "truncate" else ratio_L.masked_fill(is_beyond_L, 0.0)
    return held_L, is_beyond_L
