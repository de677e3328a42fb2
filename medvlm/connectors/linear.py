"""One linear layer, applied to every token, as in the first LLaVA, XrayGPT and Merlin's report stage."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from medvlm.core.config import Config as Base


class Config(Base):
    kind: Literal["linear"]


def tokens(config: Config, grid: tuple[int, ...], width: int | None = None) -> int:
    return math.prod(grid)


def build(config: Config, in_width: int, out_width: int, grid: tuple[int, ...]) -> nn.Module:
    return nn.Linear(in_width, out_width)
