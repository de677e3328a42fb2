"""GDPO: each reward is normalised within its group by itself, so that a reward that hardly varies, or is easy, does not
drown in another one. Their weighted sum is then normalised over all answers of the step.

Source: arXiv 2601.05242, as in TRL 1.16 (`multi_objective_aggregation: normalize_then_sum`). Deviations: weights are
shares of the rewards that can judge a question, and groups without any spread teach exactly nothing."""

from __future__ import annotations

import math
from typing import Literal

import torch

from medvlm.objectives.policies._contract import Groups, PolicyConfig, SumOverRanks, Tokens
from medvlm.objectives.policy import EPSILON, advantages, clip_ratio, weigh_tokens

SPANS_STEP = True


class Config(PolicyConfig):
    kind: Literal["gdpo"]


def find_advantages(config: Config, groups: Groups, sum_over_ranks: SumOverRanks) -> torch.Tensor:
    P, G, R = groups.parts_PGR.shape
    parts_PRG = groups.parts_PGR.nan_to_num(0.0).transpose(1, 2)  # 0 for all answers where a reward cannot judge
    each_PRG = advantages(parts_PRG.reshape(P * R, G), scale_by_deviation=True, correction=1).view(P, R, G)
    total_PG = (each_PRG * groups.weights_PR[:, :, None]).sum(1)
    count, total = sum_over_ranks([total_PG.numel(), float(total_PG.double().sum())])
    mean = total / count
    (squares,) = sum_over_ranks([float((total_PG.double() - mean).square().sum())])
    has_spread_P = each_PRG.any(-1).any(-1)
    scaled_PG = (total_PG - mean) / (math.sqrt(squares / max(1.0, count - 1)) + EPSILON)
    return scaled_PG.masked_fill(~has_spread_P[:, None], 0.0)


def compute_losses(config: Config, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    return clip_ratio(tokens.log_L, tokens.old_L, tokens.advantage_L, config.clip, config.clip_high)


def share_out(config: Config, lengths_A: torch.Tensor, limit: int) -> tuple[torch.Tensor, float]:
    return weigh_tokens(lengths_A)
