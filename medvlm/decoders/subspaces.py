"""Gives each image a vector of length 1 that several learners train, each in units of its own and on images of its own,
and more of them join where training stands still (Dynamic Subspace Learners, arXiv 2206.09068; code
adigasu/Dynamic_subspace_learners at 84fce0a).

The vectors of the last images are clustered again and again, into as many clusters as there are learners, and each
learner trains on the images of one cluster. If clusters, as many as classes, have long not agreed better with the
labels, the last learner is divided: the units that mattered to its loss stay, by |mean of activation x gradient| as a
share of the range of its units, and the others begin anew as the units of a new learner. In the last share of the
steps, all units train on all images together. It answers no question, like `unit_vector`.

Axes: N images, L learners, D units, M images of all ranks, Q images that are remembered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch.nn.functional import normalize

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import MISSING, DecoderFacts
from medvlm.decoders._clusters import find_centers, find_nearest, measure_agreement
from medvlm.decoders._linear import Linear, LinearConfig

OUTPUT = "vectors"
ANSWERS = "scores"
GIVES_ANSWERS, GIVES_VECTORS = False, True
DIVIDED_FROM, STAYING = 11, 5
"""Units of a learner that can be divided, and how many of them have to stay (from the code)."""


class Config(LinearConfig):
    kind: Literal["subspaces"]
    ALWAYS_EXCLUSIVE = True
    width: int = Field(128, gt=0)
    """The length of the vector."""
    learners: int = Field(4, gt=1)
    """The largest number of learners. There is one at first."""
    memory: int = Field(2048, gt=1)
    """Of how many images of the last steps the vectors are clustered. The paper clusters those of all images."""
    every: int = Field(200, gt=0)
    """Steps from one clustering to the next; 2 epochs in the code."""
    patience: int = Field(5, gt=0)
    """Clusterings without a better agreement with the labels before a learner joins."""
    apart: float = Field(0.83, gt=0, le=1)
    """Share of the steps in which learners train apart; 250 of 300 epochs in the code."""


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    config.check(grid)
    return DecoderFacts((1, config.width))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> Subspaces:
    return Subspaces(config, width, grid)


class Subspaces(Linear):
    """Features -> [N, 1, D], the vector for use. In training, with several learners, [N, 1 + L, D]: a vector of each
    learner too, of length 1 in its units for the images that it trains on, and 0 otherwise.

    Deviations from the paper: agreement with the labels is measured on images of training, where its code looks at
    those that it reports on; and batches are mixed, where its code takes each from one cluster."""

    owner_D: torch.Tensor
    joined: torch.Tensor
    centers_LD: torch.Tensor
    memory_QD: torch.Tensor
    labels_Q: torch.Tensor
    told_D: torch.Tensor
    counts: torch.Tensor
    best: torch.Tensor

    def __init__(self, config: Config, width: int, grid: tuple[int, ...]):
        super().__init__(config, width, config.width, grid)
        self.config = config
        for name, buffer in {
            # The learner of each unit, and how many have joined. 0: all units train together.
            "owner_D": torch.zeros(config.width, dtype=torch.int64),
            "joined": torch.tensor(1),
            "centers_LD": torch.zeros(config.learners, config.width),
            "memory_QD": torch.zeros(config.memory, config.width),
            "labels_Q": torch.full((config.memory,), MISSING),
            "told_D": torch.zeros(config.width, dtype=torch.float64),
            # Steps, images seen, clusterings since the best one.
            "counts": torch.zeros(3, dtype=torch.int64),
            "best": torch.tensor(-1.0, dtype=torch.float64),
        }.items():
            self.register_buffer(name, buffer)
        self._told: list[torch.Tensor] = []

    def forward(self, features: Features) -> torch.Tensor:
        whole_ND = super().forward(features).float()
        if whole_ND.requires_grad and self.training:
            value_ND = whole_ND.detach()
            whole_ND.register_hook(lambda slope_ND: self._told.append((value_ND * slope_ND).sum(0)))
        unit_N1D = normalize(whole_ND, dim=1)[:, None]
        # A plan has no values, and counts all of them.
        count = self.config.learners if self.joined.is_meta else int(self.joined)
        if not self.training or count < 2:
            return unit_N1D
        is_own_LD = self.owner_D == torch.arange(count, device=self.owner_D.device)[:, None]
        of_each_NLD = normalize(whole_ND[:, None] * is_own_LD, dim=2)
        nearest_N = find_nearest(unit_N1D[:, 0].detach(), self.centers_LD[:count])
        is_its_own_NL = nearest_N[:, None] == torch.arange(count, device=nearest_N.device)
        return torch.cat([unit_N1D, of_each_NLD * is_its_own_NL[..., None]], 1)

    def observe(
        self,
        vectors: torch.Tensor,
        labels_M: torch.Tensor,
        done: float,
        sum_over_ranks: Callable[[Sequence[float]], list[float]],
    ) -> None:
        """After a step: remembers its vectors [M, 1 (+ L), D], clusters if it is time to, and lets a learner join.
        done: share of the steps. Called on every rank with the same, so that all do the same."""
        own_D = torch.stack(self._told).sum(0) if self._told else torch.zeros_like(self.told_D)
        self._told.clear()
        self.told_D += torch.tensor(sum_over_ranks(own_D.tolist()), dtype=torch.float64).to(self.told_D.device)
        self.counts[0] += 1
        if done >= self.config.apart:
            # Nothing of single images is left in a finished model.
            for buffer in (self.joined, self.memory_QD, self.centers_LD, self.told_D):
                buffer.zero_()
            self.labels_Q.fill_(MISSING)
            return
        self._remember(vectors[:, 0], labels_M)
        if int(self.counts[0]) % self.config.every == 0:
            self._cluster()

    def _remember(self, vectors_MD: torch.Tensor, labels_M: torch.Tensor) -> None:
        rows = (labels_M != MISSING).nonzero()[-self.config.memory :, 0]
        places = (self.counts[1] + torch.arange(len(rows), device=rows.device)) % self.config.memory
        self.memory_QD[places], self.labels_Q[places] = vectors_MD[rows].to(self.memory_QD), labels_M[rows]
        self.counts[1] += len(rows)

    def _cluster(self) -> None:
        filled = min(int(self.counts[1]), self.config.memory)
        if not filled:
            return
        vectors_QD, labels_Q = self.memory_QD[:filled], self.labels_Q[:filled]
        clusters_Q = find_nearest(vectors_QD, find_centers(vectors_QD, len(self.config.classes)))
        agreement = measure_agreement(clusters_Q, labels_Q)
        self.counts[2] = 0 if agreement > self.best else self.counts[2] + 1
        self.best.clamp_(min=agreement)
        if self.counts[2] >= self.config.patience and int(self.joined) < self.config.learners and self._divide():
            self.counts[2] = 0
        self.told_D.zero_()
        if (count := int(self.joined)) > 1:
            # With fewer different vectors than learners, the last learners train on no image.
            centers_KD = find_centers(vectors_QD, count)
            self.centers_LD.fill_(math.inf)
            self.centers_LD[: len(centers_KD)] = centers_KD.to(self.centers_LD)

    def _divide(self) -> bool:
        """Divides the last learner. False if it has too few units, or if too few of them would stay."""
        count = int(self.joined)
        units = (self.owner_D == count - 1).nonzero()[:, 0]
        if len(units) < DIVIDED_FROM:
            return False
        told = self.told_D[units].abs()
        is_staying = told - told.min() > 0.5 * (told.max() - told.min())
        if int(is_staying.sum()) < STAYING:
            return False
        leaving = units[~is_staying]
        self.owner_D[leaving] = count
        self.joined.fill_(count + 1)
        bound, generator = self.classify.in_features**-0.5, torch.Generator().manual_seed(count)
        with torch.no_grad():  # as nn.Linear begins
            for parameter in (self.classify.weight, self.classify.bias):
                fresh = torch.rand(len(leaving), *parameter.shape[1:], generator=generator) * 2 * bound - bound
                parameter[leaving] = fresh.to(parameter)
        return True
