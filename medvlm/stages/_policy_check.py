"""Checks that the model that learns from answers is the one that drew them.

If images get lost between the two, or the answers were drawn with old weights, both go on, and what is learned is about
another model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from medvlm.core.errors import RolloutMismatch
from medvlm.rollouts._contract import Answer

FIRST, EVERY = 16, 100
"""Draws that are checked: the first ones, and every 100th. Engines that are another program are not, because their
log-probabilities are used, see `correction`."""
LIMIT, LIMIT_16_BIT = 0.01, 0.1
"""Mean difference, in nats per token, of a model that computes in float32, or with 16 or fewer bits anywhere. Read as a
whole and token by token, an answer differs by about 1e-5 and 0.01."""


class PolicyCheck:
    def __init__(self, stage: str, model: nn.Module, precision: str):
        """precision: of the engine."""
        self.stage, self.num_drawn = stage, 0
        is_float32 = precision.startswith("32") and all(p.dtype == torch.float32 for p in model.parameters())
        self.limit = LIMIT if is_float32 else LIMIT_16_BIT

    def is_due(self) -> bool:
        """Called once a draw."""
        number = self.num_drawn
        self.num_drawn += 1
        return number < FIRST or number % EVERY == 0

    def compare(self, log_L: torch.Tensor, answers: Sequence[Answer], keys: Sequence[str]) -> None:
        """log_L: log-probability of each token of the answers, in order, before the first update on them. Answers that
        were not drawn for a check are left out, and of several replies all but the last. Raises RolloutMismatch."""
        gaps, at = list[float](), 0
        for answer in answers:
            at += len(answer.written)
            own = log_L[at - len(answer.ids) : at].tolist()
            gaps += [abs(a - b) for a, b in zip(own, answer.checked or (), strict=False)]
        gap = sum(gaps) / max(1, len(gaps))
        if not gap <= self.limit:
            raise RolloutMismatch(
                f"stages.{self.stage}: the answers to {', '.join(keys[:3])} were drawn by another model than the one"
                f" that learns from them: their tokens differ by {gap:.3f} nats on average (at most {self.limit} is"
                " expected); check that the rollout engine has the current weights, and that both are shown the same"
                " images"
            )
