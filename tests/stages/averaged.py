"""A stage kind as a package of somebody else would have it: supervised, with an optimizer of its own for the adapters
and an average of the weights beside the model."""

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

    def optimizers(self) -> dict[str, Optim]:
        return {"": self.optim, "adapters": self.adapters}


def build(config: Config, setup: Setup) -> Averaged:
    return Averaged(config, setup)


class Averaged(supervised.Supervised):
    config: Config

    def extra_models(self) -> dict[str, nn.Module]:
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        return {"average": self.average}

    def updates(self, micros: list[Batch], step: int) -> list[Update]:
        """The adapters are held to the average."""
        return [Update(), Update("adapters", self.distance)]

    def weights(self, micro: Batch) -> dict[str, float]:
        return {**super().weights(micro), "distance": 1.0}

    def distance(self, model: nn.Module, micro: Batch, step: int) -> Measured:
        measured = super().loss(model, micro, step)
        pairs = zip(self.model.parameters(), self.average.parameters(), strict=True)
        squares = [(now - mean).square().sum() for now, mean in pairs if now.requires_grad]
        loss = measured[LOSS]
        assert isinstance(loss, Loss)
        return {LOSS: loss, "distance": Loss(torch.stack(squares).sum(), 1.0)}

    def after_step(self, step: int) -> None:
        for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 1 - self.config.decay)
