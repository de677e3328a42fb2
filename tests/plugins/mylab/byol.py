"""A stage with a second optimizer and a model beside the one that is trained: BYOL (arXiv 2006.07733).

From one view of an image the predictor says what the teacher, an average of the encoder's weights, sees in another.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.core.sample import Sample
from medvlm.core.stage_config import Optim, OptimOf, StageConfig
from medvlm.data.order import draw
from medvlm.data.source import make_filter
from medvlm.models.parts import evaluating
from medvlm.stages._base import Base, Setup, Wants, split_evenly
from medvlm.train.accumulate import Update
from medvlm.train.terms import LOSS, Loss, Measured, Name, Term, Terms, join, to_terms
from mylab.siamese import Views

NEEDS = "compare"
NOISE = 0.1
"""Standard deviation of what tells two views apart, in units of the normalised pixels."""


class Config(StageConfig):
    kind: Literal["mylab.byol"]
    decay: float = Field(0.9, gt=0, lt=1)
    """Of the teacher's weights, at each step."""
    predictor: OptimOf = OptimOf(of=("predictor",), lr=1e-2, schedule="constant")
    """The optimizer of the predictor, which has to be faster than the encoder."""

    def list_optimizers(self) -> dict[str, Optim]:
        return {"": self.optim, "predictor": self.predictor}


@dataclass(frozen=True)
class Two:
    """A prepared sample."""

    key: str
    first: torch.Tensor
    second: torch.Tensor
    source: str = ""


def build(config: Config, setup: Setup) -> Byol:
    return Byol(config, setup)


class Byol(Base):
    config: Config

    def __init__(self, config: Config, setup: Setup):
        super().__init__(config, setup)
        self.model = setup.composition.build(setup, config)

    @property
    def wants(self) -> Wants:
        return make_filter(media=self.setup.prepare.takes)

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> Two:
        """Views follow from the position in the stream, so that a resumed run sees the same."""
        _, pixels = self.setup.prepare.see(sample, files).media[0]
        rng = draw(self.setup.seed, self.config.name, "views", position)
        noise = torch.from_numpy(rng.normal(0, NOISE, (2, *pixels.shape))).to(pixels)
        return Two(sample.key, pixels + noise[0], pixels.flip(-1) + noise[1])

    def make_micros(self, prepared: list[Two], count: int) -> list[Views]:
        return [
            Views(
                torch.stack([item.first for item in part]),
                torch.stack([item.second for item in part]),
                tuple(item.key for item in part),
            )
            for part in split_evenly(prepared, count)
        ]

    def make_extra_models(self) -> dict[str, nn.Module]:
        self.teacher = copy.deepcopy(self.model).requires_grad_(False).eval()
        return {"teacher": self.teacher}

    def plan_updates(self, micros: list[Views], step: int) -> list[Update]:
        """First the predictor, then the encoder by a predictor that is one step better."""
        return [Update("predictor"), Update()]

    def weigh(self, micro: Views) -> dict[str, float]:
        return {LOSS: len(micro.keys)}

    def compute_loss(self, model: nn.Module, micro: Views, step: int) -> Measured:
        micro = micro.to(self.engine.device)
        with torch.no_grad():
            target_NP = self.teacher(micro)["seen_NP"]
        likeness_N = (model(micro)["predicted_NP"] * target_NP).sum(-1)
        return {LOSS: Loss((2 - 2 * likeness_N).sum(), len(micro.keys))}

    def after_step(self, step: int) -> None:
        for mean, now in zip(self.teacher.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 1 - self.config.decay)

    def validate(self, model: nn.Module, samples: int) -> Terms:
        found: dict[Name, Term] = {}
        with evaluating(self.model):
            for item in self.prepare_validation(samples):
                join(found, to_terms(self.compute_loss(model, self.make_micros([item], 1)[0], self.config.steps)))
        return found
