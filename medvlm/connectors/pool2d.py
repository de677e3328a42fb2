"""Averages tokens over blocks of rows and columns, as in Gemma 3 and Honeybee. The slices of a volume are pooled
separately."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from medvlm.connectors import _pool
from medvlm.core.config import Config as Base

Side = Annotated[int, Field(gt=0)]


class Config(Base):
    kind: Literal["pool2d"]
    to: tuple[Side, Side]
    """Number of tokens left along rows and columns, e.g. [8, 8]."""
    positions: bool = False
    """Adds a learned embedding of row, column and slice to the tokens. For frozen encoders whose tokens carry no
    position, such as convolutional networks, where a small language model has to say where things are."""


def tokens(config: Config, grid: tuple[int, ...], width: int | None = None) -> int:
    """Raises ShapeError for a grid that is smaller than `to`, or has fewer than 2 axes."""
    _pool.check(config.to, grid)
    return math.prod(grid[:-2]) * math.prod(config.to)


def build(config: Config, in_width: int, out_width: int, grid: tuple[int, ...]) -> nn.Module:
    _pool.check(config.to, grid)
    return _pool.Pool(config.to, in_width, out_width, grid, config.positions)
