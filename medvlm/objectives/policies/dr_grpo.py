"""GRPO without its two biases: neither the deviation of the group nor the length of an answer scales what it teaches.

Source: Dr. GRPO, arXiv 2503.20783, section 3.2 and listing 1: the sum over the tokens of an answer is divided by
`max_new_tokens`, the same number for all answers."""

from __future__ import annotations

from typing import Literal

import torch

from medvlm.objectives.policies._contract import Groups, PolicyConfig, SumOverRanks, Tokens
from medvlm.objectives.policy import centre, clip_ratio, weigh_by_limit

SPANS_STEP = False


class Config(PolicyConfig):
    kind: Literal["dr_grpo"]


def find_advantages(config: Config, groups: Groups, sum_over_ranks: SumOverRanks) -> torch.Tensor:
    return centre(groups.rewards_PG)


def compute_losses(config: Config, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    return clip_ratio(tokens.log_L, tokens.old_L, tokens.advantage_L, config.clip, config.clip_high)


def share_out(config: Config, lengths_A: torch.Tensor, limit: int) -> tuple[torch.Tensor, float]:
    return weigh_by_limit(lengths_A, limit)
