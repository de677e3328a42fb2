"""Direct preference optimization: the preferred answer gains more than the rejected one, against the model as the stage
began.

Source: arXiv 2305.18290, equation 7."""

from __future__ import annotations

from typing import Literal

import torch

from medvlm.objectives.preferences._contract import PairScores, PreferenceConfig

NEEDS_REFERENCE = True


class Config(PreferenceConfig):
    kind: Literal["dpo"]


def find_margins(config: Config, pairs: PairScores) -> torch.Tensor:
    return config.beta * (pairs.gains_N2[:, 0] - pairs.gains_N2[:, 1])
