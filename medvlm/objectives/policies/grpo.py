"""Group relative policy optimization: the reward against the mean of its group, in units of its deviation.

Source: arXiv 2402.03300, section 4.1. Deviation: every token weighs the same, whatever the length of its answer (see
objectives/policy.weigh_tokens)."""

from __future__ import annotations

from typing import Literal

import torch

from medvlm.objectives.policies._contract import Groups, PolicyConfig, SumOverRanks, Tokens
from medvlm.objectives.policy import advantages, clip_ratio, weigh_tokens

SPANS_STEP = False


class Config(PolicyConfig):
    kind: Literal["grpo"]
    scale_by_deviation: bool = True
    """Divides advantages by the standard deviation of the group."""


def find_advantages(config: Config, groups: Groups, sum_over_ranks: SumOverRanks) -> torch.Tensor:
    return advantages(groups.rewards_PG, config.scale_by_deviation)


def compute_losses(config: Config, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    return clip_ratio(tokens.log_L, tokens.old_L, tokens.advantage_L, config.clip, config.clip_high)


def share_out(config: Config, lengths_A: torch.Tensor, limit: int) -> tuple[torch.Tensor, float]:
    return weigh_tokens(lengths_A)
