"""A stage kind as in a third-party package: supervised, with a second optimizer for the adapters and an average of
the weights as an extra model."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.core.sample import Batch
from medvlm.core.stage_config import Optim, OptimOf
from medvlm.stages import supervised
from medvlm.stages._base import Setup
from medvlm.train.accumulate import Update
from medvlm.train.terms import LOSS, Loss, Measured

NEEDS = "answer"


class Config(supervised.Config):
    kind: Literal["tests.stages.averaged"]  # type: ignore[assignment]
    adapters: OptimOf = OptimOf(of=("lora",), lr=1e-3)
    decay: float = Field(0.5, gt=0, lt=1)
    """Of the average, at each step."""

    def list_optimizers(self) -> dict[str, Optim]:
        return {"": self.optim, "adapters": self.adapters}


def build(config: Config, setup: Setup) -> Averaged:
    return Averaged(config, setup)


class Averaged(supervised.Supervised):
    config: Config

    def make_extra_models(self) -> dict[str, nn.Module]:
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        return {"average": self.average}

    def plan_updates(self, micros: list[Batch], step: int) -> list[Update]:
        """The second update pulls the adapters towards the average."""
        return [Update(), Update("adapters", self.distance)]

    def weigh(self, micro: Batch) -> dict[str, float]:
        return {**super().weigh(micro), "distance": 1.0}

    def distance(self, model: nn.Module, micro: Batch, step: int) -> Measured:
        measured = super().compute_loss(model, micro, step)
        pairs = zip(self.model.parameters(), self.average.parameters(), strict=True)
        squares = [(now - mean).square().sum() for now, mean in pairs if now.requires_grad]
        loss = measured[LOSS]
        assert isinstance(loss, Loss)
        return {LOSS: loss, "distance": Loss(torch.stack(squares).sum(), 1.0)}

    def after_step(self, step: int) -> None:
        for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 1 - self.config.decay)
