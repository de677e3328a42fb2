"""A method of pretraining on images alone: two views of an image correlate, and the channels do not (Barlow Twins,
arXiv 2103.03230, equations 1 and 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.core.contracts import Outputs
from medvlm.objectives.ssl._base import Moment, Objective, SslLoss, Tensors, encode
from medvlm.objectives.ssl._views import Changes, make_view

if TYPE_CHECKING:
    import numpy as np


class Config(SslLoss):
    joins_samples: ClassVar[bool] = True
    kind: Literal["mylab.twins"]
    width: int = Field(64, gt=1)
    redundancy: float = Field(0.005, gt=0)
    """Weight of the correlations between different channels."""


def build(config: Config, encoder: Any) -> Twins:
    return Twins(config, encoder)


class Twins(Objective):
    def __init__(self, config: Config, encoder: Any):
        super().__init__()
        self.config, self.size = config, encoder.input_shape[1:]
        self.project = nn.Sequential(
            nn.Linear(encoder.width, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )

    def draw(self, pixels: torch.Tensor, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        changes = Changes(gain=0.3, brightness=0.3)
        return {"views": torch.stack([make_view(pixels, self.size, (0.5, 1.0), changes, rng) for _ in range(2)])}

    def forward(self, encoder: nn.Module, views: Tensors, own: Outputs | None = None) -> Outputs:
        pooled = encode(encoder, views["views"].flatten(0, 1)).pooled.unflatten(0, (-1, 2))
        return {"pooled_NE": pooled[:, 0], "project_N2K": self.project(pooled)}

    def weigh(self, views: Tensors) -> dict[str, float]:
        return {"twins": float(len(views["views"]))}

    def add_up(self, moment: Moment, views: Tensors, own: Outputs, taught: Outputs) -> dict[str, torch.Tensor]:
        every = moment.gather_one(own["project_N2K"].float())
        one, two = ((each - each.mean(0)) / (each.std(0, correction=0) + 1e-5) for each in every.unbind(1))
        correlation = one.T @ two / len(every)
        same = correlation.diagonal()
        apart = correlation.square().sum() - same.square().sum()
        return {"twins": ((1 - same).square().sum() + self.config.redundancy * apart) * len(own["project_N2K"])}
