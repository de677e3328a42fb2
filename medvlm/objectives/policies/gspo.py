"""GSPO: the ratio that is clipped is that of whole answers, per token.

Source: arXiv 2507.18071, equations 5 to 7. The bounds are those of its section 5.1: the mean over the tokens of an
answer moves far less than a single token. As in TRL, the deviation of a group divides by G - 1."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.objectives.policies._contract import Groups, PolicyConfig, SumOverRanks, Tokens
from medvlm.objectives.policy import advantages, clip_by_advantage, find_answer_ratio, weigh_answers

SPANS_STEP = False


class Config(PolicyConfig):
    kind: Literal["gspo"]
    clip: float = Field(3e-4, gt=0)
    clip_high: float | None = Field(4e-4, gt=0)


def find_advantages(config: Config, groups: Groups, sum_over_ranks: SumOverRanks) -> torch.Tensor:
    return advantages(groups.rewards_PG, scale_by_deviation=True, correction=1)


def compute_losses(config: Config, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    ratio_L = find_answer_ratio(tokens.log_L, tokens.old_L, tokens.lengths_A, "mean")
    return clip_by_advantage(ratio_L, tokens.advantage_L, config.clip, config.clip_high)


def share_out(config: Config, lengths_A: torch.Tensor, limit: int) -> tuple[torch.Tensor, float]:
    return weigh_answers(lengths_A)
