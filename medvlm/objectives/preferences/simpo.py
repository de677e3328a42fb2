"""SimPO: the log-probability per token itself, without a reference, and ahead by a margin.

Source: arXiv 2405.14734, equation 6."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.objectives.preferences._contract import PairScores, PreferenceConfig

NEEDS_REFERENCE = False


class Config(PreferenceConfig):
    kind: Literal["simpo"]
    beta: float = Field(2.0, gt=0)
    margin: float = Field(1.0, ge=0)
    """By how much the preferred answer is to be ahead (gamma in the paper), after the factor beta."""


def find_margins(config: Config, pairs: PairScores) -> torch.Tensor:
    each_N2 = pairs.log_N2 / pairs.lengths_N2
    return config.beta * (each_N2[:, 0] - each_N2[:, 1]) - config.margin
