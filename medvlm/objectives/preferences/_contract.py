"""The interface of objectives for preferences.

A kind is a module of medvlm/objectives/preferences with a `Config` (a PreferenceConfig), NEEDS_REFERENCE (whether it
compares with the model as the stage began) and find_margins(config, pairs) -> [N]: by how much the preferred answer of
each pair is ahead. The loss of a pair is -log sigmoid(margin).

Axes: N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field

from medvlm.core.config import Config, component

SLOT = "objectives.preferences"
DEFAULT = "dpo"


class PreferenceConfig(Config):
    kind: str
    beta: float = Field(0.1, gt=0)
    """Factor on log-probabilities: the smaller, the further the model may move."""


def make_default() -> PreferenceConfig:
    config: type[PreferenceConfig] = component(SLOT, DEFAULT).Config
    return config(kind=DEFAULT)


@dataclass(frozen=True)
class PairScores:
    """[N, 2] each, the preferred answer first. log_N2: log-probability of the whole answer, with a gradient.
    reference_N2: the same under the model as the stage began; None if the objective needs none. lengths_N2: tokens."""

    log_N2: torch.Tensor
    reference_N2: torch.Tensor | None
    lengths_N2: torch.Tensor

    @property
    def gains_N2(self) -> torch.Tensor:
        """By how much each answer has become more probable since the stage began."""
        assert self.reference_N2 is not None
        return self.log_N2 - self.reference_N2
