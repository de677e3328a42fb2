"""REINFORCE with leave-one-out: the reward against the mean of the other answers of its group, for whole answers.

Source: arXiv 2402.14740, equation 8. As in TRL, later updates on the same answers clip the ratio of whole answers."""

from __future__ import annotations

from typing import Literal

import torch

from medvlm.objectives.policies._contract import Groups, PolicyConfig, SumOverRanks, Tokens
from medvlm.objectives.policy import centre, clip_by_advantage, find_answer_ratio, weigh_answers

SPANS_STEP = False


class Config(PolicyConfig):
    kind: Literal["rloo"]


def find_advantages(config: Config, groups: Groups, sum_over_ranks: SumOverRanks) -> torch.Tensor:
    size = groups.rewards_PG.shape[1]
    return centre(groups.rewards_PG) * (size / (size - 1))  # r - mean of the others


def compute_losses(config: Config, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    ratio_L = find_answer_ratio(tokens.log_L, tokens.old_L, tokens.lengths_A, "sum")
    return clip_by_advantage(ratio_L, tokens.advantage_L, config.clip, config.clip_high)


def share_out(config: Config, lengths_A: torch.Tensor, limit: int) -> tuple[torch.Tensor, float]:
    return weigh_answers(lengths_A)
