"""The interface of objectives for policies.

A kind is a module of medvlm/objectives/policies with a `Config` (a PolicyConfig) and the functions of Objective.

Axes: P prompts, G answers to each, A = P * G answers, L tokens of all answers, R rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pydantic import Field

from medvlm.core.config import Config, component

SLOT = "objectives.policies"
DEFAULT = "grpo"
SumOverRanks = Callable[[Sequence[float]], list[float]]


class PolicyConfig(Config):
    kind: str
    clip: float = Field(0.2, gt=0)
    """The ratio to the policy that drew the answers has no gradient once it is lower than 1 - clip (for a negative
    advantage) or, without `clip_high`, higher than 1 + clip (for a positive one)."""
    clip_high: float | None = Field(None, gt=0)
    """The bound above, if it is another one."""


def name_default(clip: float, scale_by_deviation: bool) -> PolicyConfig:
    """The settings of GRPO."""
    config: PolicyConfig = component(SLOT, DEFAULT).Config(
        kind=DEFAULT, clip=clip, scale_by_deviation=scale_by_deviation
    )
    return config


@dataclass(frozen=True)
class Groups:
    """What the answers of a step earned on this rank, on the CPU.

    rewards_PG: the composed reward. parts_PGR: each reward by itself, NaN where it cannot judge. weights_PR: their
    shares in the composed reward, 0 where it cannot judge. lengths_PG: tokens of each answer. limit: the largest number
    of tokens of an answer."""

    rewards_PG: torch.Tensor
    parts_PGR: torch.Tensor
    weights_PR: torch.Tensor
    lengths_PG: torch.Tensor
    limit: int


@dataclass(frozen=True)
class Tokens:
    """log_L, old_L: log-probabilities under the policy in training, with a gradient, and under the one that drew the
    answers. advantage_L: of the answer that a token belongs to. lengths_A: tokens of each answer, at least 1, in the
    order of the tokens; on the CPU."""

    log_L: torch.Tensor
    old_L: torch.Tensor
    advantage_L: torch.Tensor
    lengths_A: torch.Tensor


class Objective(Protocol):
    SPANS_STEP: bool
    """Whether advantages depend on all answers of the step, over all ranks."""

    def find_advantages(self, config: Any, groups: Groups, sum_over_ranks: SumOverRanks) -> torch.Tensor:
        """[P, G]. Called once a step on every rank."""

    def compute_losses(self, config: Any, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
        """[L] loss per token, and [L] whether the clip removed the gradient."""

    def share_out(self, config: Any, lengths_A: torch.Tensor, limit: int) -> tuple[torch.Tensor, float]:
        """[A] the factor on the losses of the tokens of each answer, and the weight of the answers: the loss of a step
        is the sum of all losses times their factors, divided by the sum of the weights over ranks and micro-batches.
        lengths_A: 0 for an answer that is left out."""
