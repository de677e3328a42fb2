"""Averages the tokens of a volume over blocks of slices, rows and columns, as in M3D-LaMed's spatial pooling."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from medvlm.connectors import _pool
from medvlm.core.config import Config as Base

Side = Annotated[int, Field(gt=0)]


class Config(Base):
    kind: Literal["pool3d"]
    to: tuple[Side, Side, Side]
    """Number of tokens left along slices, rows and columns, e.g. [4, 8, 8]."""


def tokens(config: Config, grid: tuple[int, ...], width: int | None = None) -> int:
    """Raises ShapeError for a grid that is smaller than `to`, or has fewer than 3 axes."""
    _pool.check(config.to, grid)
    return math.prod(grid[:-3]) * math.prod(config.to)


def build(config: Config, in_width: int, out_width: int, grid: tuple[int, ...]) -> nn.Module:
    _pool.check(config.to, grid)
    return _pool.Pool(config.to, in_width, out_width, grid)
