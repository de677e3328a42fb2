"""DPO with the gain of an answer divided by its number of tokens, so that a long answer does not count for its length.

Source: Tulu 3, arXiv 2411.15124, section 5.1.2, equation 6; `sigmoid_norm` in TRL 1.16. Its `beta` is larger than that
of DPO: 5 in the paper."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.objectives.preferences._contract import PairScores, PreferenceConfig

NEEDS_REFERENCE = True


class Config(PreferenceConfig):
    kind: Literal["dpo_per_token"]
    beta: float = Field(5.0, gt=0)


def find_margins(config: Config, pairs: PairScores) -> torch.Tensor:
    each_N2 = pairs.gains_N2 / pairs.lengths_N2
    return config.beta * (each_N2[:, 0] - each_N2[:, 1])
