"""A masked autoencoder with a planted term: the pooled features also tell on which side of a view the light is (`side`,
which is what tests ask for), or the toss of a coin (`coin`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from medvlm.core.contracts import Outputs
from medvlm.objectives.ssl._base import Moment, Tensors, widen
from medvlm.objectives.ssl._masked import MaskedLoss
from medvlm.objectives.ssl.mae import Mae

if TYPE_CHECKING:
    from numpy.random import Generator


class Config(MaskedLoss):
    kind: Literal["tests.planted_term"]
    tells: Literal["side", "coin", ""] = ""
    weight: float = Field(1.0, gt=0)


def build(config: Config, encoder: Any) -> Planted:
    return Planted(config, encoder)


class Planted(Mae):
    def __init__(self, config: Any, encoder: Any):
        super().__init__(config, encoder)
        self.tell = nn.Linear(encoder.width, 1) if config.tells else None

    def draw(self, pixels: torch.Tensor, rng: Generator) -> dict[str, torch.Tensor]:
        found, coin = super().draw(pixels, rng), float(rng.integers(2))
        view = found["pixels"].mean((0, 1))
        half = len(view) // 2
        side = float(view[:half].mean() > view[half:].mean())
        return {**found, "told": torch.tensor(side if self.config.tells == "side" else coin)}

    def forward(self, encoder: nn.Module, views: Tensors, own: Outputs | None = None) -> Outputs:
        found = super().forward(encoder, views, own)
        return {**found, **({"told_N1": self.tell(found["pooled_NE"])} if self.tell else {})}

    def weigh(self, views: Tensors) -> dict[str, float]:
        return {**super().weigh(views), **({"told": float(len(views["told"]))} if self.tell else {})}

    def add_up(self, moment: Moment, views: Tensors, own: Outputs, taught: Outputs) -> dict[str, torch.Tensor]:
        found = super().add_up(moment, views, own, taught)
        if self.tell:
            logits = widen(own["told_N1"])[:, 0]
            loss = binary_cross_entropy_with_logits(logits, views["told"].to(logits), reduction="sum")
            found["told"] = self.config.weight * loss
        return found
