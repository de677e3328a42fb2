"""DAPO: a higher bound for what becomes more probable, every token weighs the same, and long answers are told before
they are cut.

Source: arXiv 2503.14476, equations 8 to 13. Its dynamic sampling (equation 11) is `refill` of the stage, the masking of
answers that were cut `mask_cut`. As in TRL, the deviation of a group divides by G - 1."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.objectives.policies._contract import Groups, PolicyConfig, SumOverRanks, Tokens
from medvlm.objectives.policy import advantages, clip_ratio, weigh_tokens

SPANS_STEP = False


class Config(PolicyConfig):
    kind: Literal["dapo"]
    clip_high: float | None = Field(0.28, gt=0)
    """The bound above. A rare token may gain more before it is held back, which keeps answers diverse."""
    soft_tokens: int = Field(0, ge=0)
    """Within this many tokens of `max_new_tokens`, the reward falls evenly, by 1 at the limit. 0: not at all."""


def find_advantages(config: Config, groups: Groups, sum_over_ranks: SumOverRanks) -> torch.Tensor:
    penalty_PG = penalize_length(groups.lengths_PG, groups.limit, config.soft_tokens)
    return advantages(groups.rewards_PG + penalty_PG, scale_by_deviation=True, correction=1)


def penalize_length(lengths: torch.Tensor, limit: int, soft_tokens: int) -> torch.Tensor:
    """From 0 for an answer with at most limit - soft_tokens tokens to -1 for one with `limit` tokens (equation 13)."""
    return -((lengths - (limit - soft_tokens)).clamp(min=0) / max(1, soft_tokens)).clamp(max=1)


def compute_losses(config: Config, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    return clip_ratio(tokens.log_L, tokens.old_L, tokens.advantage_L, config.clip, config.clip_high)


def share_out(config: Config, lengths_A: torch.Tensor, limit: int) -> tuple[torch.Tensor, float]:
    return weigh_tokens(lengths_A)
