"""Gives each image a vector of length 1, so that images of one class are near each other (metric learning).

It answers no question: a vector is compared with those of other images (evaluation by `neighbours`, `knn` or
`linear_probe`). With several `learners` it is trained in subspaces, as Dynamic Subspace Learners (arXiv 2206.09068):
each learner multiplies the vector by a mask of its own, which is learned, and is trained on the images that lie mostly
in its subspace. A vector for use is that of all masks together. Learners may join one by one while the others train;
the paper adds one when the loss stops falling, here they come at equal distances.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import normalize

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderFacts
from medvlm.decoders._linear import Linear, LinearConfig

OUTPUT = "vectors"
ANSWERS = "scores"
GIVES_ANSWERS, GIVES_VECTORS = False, True


class Config(LinearConfig):
    kind: Literal["unit_vector"]
    ALWAYS_EXCLUSIVE = True
    width: int = Field(128, gt=0)
    """The length of the vector."""
    learners: int = Field(1, gt=0)
    """Number of subspaces. 1: one learner on the whole vector."""
    joining: float = Field(0.0, ge=0, lt=1, exclude_if=lambda share: not share)
    """Share of the steps in which learners join, one by one; the last one joins at its end. 0: all of them train from
    the first step on."""

    @model_validator(mode="after")
    def _several_join(self) -> Config:
        if self.joining and self.learners == 1:
            raise ValueError("joining is set, but there is one learner; remove it, or set `learners`")
        return self


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    config.check(grid)
    return DecoderFacts((count_vectors(config), config.width))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    return Vector(config, width, grid)


def count_vectors(config: Config) -> int:
    """That of all learners together, and with several one of each."""
    return 1 if config.learners == 1 else 1 + config.learners


class Vector(Linear):
    """Features -> [N, 1, width], or [N, 1 + learners, width] of the learners that have joined; all of length 1, the
    first one is the vector for use."""

    joined: torch.Tensor | None

    def __init__(self, config: Config, width: int, grid: tuple[int, ...]):
        super().__init__(config, width, config.width, grid)
        self.config, self.masks = config, None
        # A buffer, so that a model that is read from a checkpoint has the learners that were trained.
        self.register_buffer("joined", torch.tensor(1) if config.joining else None)
        if config.learners > 1:
            # Around 1 and not equal, or all learners would stay the same.
            self.masks = nn.Parameter(torch.empty(config.learners, config.width).normal_(0.9, 0.7))

    def grow(self, done: float) -> None:
        """done: share of the steps."""
        if self.joined is not None:
            others = self.config.learners - 1
            self.joined.fill_(1 + min(others, int(others * done / self.config.joining + 1e-9)))

    def forward(self, features: Features) -> torch.Tensor:
        whole_ND = super().forward(features)
        if self.masks is None:
            return normalize(whole_ND, dim=1)[:, None]
        # A plan has no values, and counts all of them.
        count = len(self.masks) if self.joined is None or self.joined.is_meta else int(self.joined)
        masks_LD = self.masks[:count].relu()
        # Each mask counts alike, whatever its size.
        together_D = normalize(masks_LD, p=1, dim=1).sum(0)
        of_each_NLD = whole_ND[:, None] * torch.cat([together_D[None], masks_LD])
        return normalize(of_each_NLD, dim=2)
