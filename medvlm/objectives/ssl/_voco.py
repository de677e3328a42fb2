"""VoCo: where in a volume a crop is, told by how much it overlaps each of fixed base crops (arXiv 2402.17300).

A region of the volume is divided into base crops. A random crop of the same size learns to be as similar to each base
as they overlap (`intra`), the bases of a volume to differ from each other (`apart`), and a crop to be as similar to the
bases of the next volume of the batch as the teacher finds it (`inter`, of VoComni, arXiv 2410.09890). The teacher is an
average of the projector alone.

Deviations from the code: layer norm in place of batch norm, whose statistics differ between one and several processes;
no dropout of whole samples before the projector; the next volume is that of the batch of all processes.

Axes: N volumes, C crops, B bases, K width of the projector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import normalize

from medvlm.core.contracts import Outputs
from medvlm.core.errors import ShapeError
from medvlm.objectives.ssl._base import Moment, Objective, SslLoss, Tensors, encode, widen
from medvlm.objectives.ssl._views import Changes, change

if TYPE_CHECKING:
    import numpy as np

SMALL = 1e-6


class VocoConfig(SslLoss):
    has_teacher: ClassVar[bool] = True
    averages_encoder: ClassVar[bool] = False
    joins_samples: ClassVar[bool] = True
    bases: tuple[int, ...] = ()
    """Base crops along each axis, each of the size of the encoder's input; by default 3 x 3 in the plane of the last
    two axes. `canvas` of the stage is at least as large as all of them, which is its default."""
    crops: int = Field(2, gt=0)
    """Random crops of each volume."""
    changes: Changes = Changes(brightness=0.1)
    """Made after the crops are cut, so that flips do not change where they are."""
    width: int = Field(1024, gt=1)
    """Width of the projector."""
    momentum: float = Field(0.9, ge=0, le=1)
    """Share that the teacher keeps of its weights in a step."""

    def scale_down(self) -> Self:
        return self.model_copy(update={"width": min(self.width, 32)})


class Voco(Objective):
    def __init__(self, config: VocoConfig, encoder: Any):
        """Raises ShapeError for a number of bases that does not fit the encoder's input."""
        super().__init__()
        self.config, self.size = config, tuple(encoder.input_shape[1:])
        axes = len(self.size)
        self.bases = config.bases or (*[1] * (axes - 2), 3, 3)
        if len(self.bases) != axes or math.prod(self.bases) < 2:
            raise ShapeError(f"loss.bases is {list(config.bases)}: expected {axes} numbers, and two bases or more")
        self.canvas = tuple(side * count for side, count in zip(self.size, self.bases, strict=True))
        width = config.width
        self.project = nn.Sequential(
            nn.Linear(encoder.width, width), nn.LayerNorm(width, elementwise_affine=False), nn.ReLU(),
            nn.Linear(width, width), nn.LayerNorm(width, elementwise_affine=False), nn.ReLU(),
            nn.Linear(width, width),
        )  # fmt: skip

    def draw(self, pixels: torch.Tensor, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """`crops_C` and `bases_B` with their pixels, and `overlaps_CB`, the shares of each crop that each base has."""
        chosen, places = self._choose(tuple(pixels.shape[1:]), rng)
        overlaps = [[measure_overlap(crop, base, self.size) for base in places] for crop in chosen]
        return {
            "crops": torch.stack([self._cut(pixels, start, rng) for start in chosen]),
            "bases": torch.stack([self._cut(pixels, start, rng) for start in places]),
            "overlaps_CB": torch.tensor(overlaps, dtype=torch.float32),
        }

    def _choose(self, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[list[list[int]], list[list[int]]]:
        """Where the crops and the bases start in a volume."""
        room = tuple(n - side for n, side in zip(shape, self.canvas, strict=True))
        if min(room) < 0:
            raise ShapeError(f"canvas is {list(shape)}, smaller than all bases together, {list(self.canvas)}")
        first = [int(rng.integers(0, n + 1)) for n in room]
        places = [
            [f + i * s for f, i, s in zip(first, each, self.size, strict=True)]
            for each in product(*map(range, self.bases))
        ]
        within = [side - size for side, size in zip(self.canvas, self.size, strict=True)]
        chosen = [
            [f + int(rng.integers(0, n + 1)) for f, n in zip(first, within, strict=True)]
            for _ in range(self.config.crops)
        ]
        return chosen, places

    def _cut(self, pixels: torch.Tensor, start: list[int], rng: np.random.Generator) -> torch.Tensor:
        box = tuple(slice(at, at + side) for at, side in zip(start, self.size, strict=True))
        return change(pixels[(slice(None), *box)], self.config.changes, rng)

    def forward(self, encoder: nn.Module, views: Tensors, own: Outputs | None = None) -> Outputs:
        """`projected_NVK`: unit vectors of the crops, then of the bases, by student or teacher."""
        if own is None:
            every = torch.cat([views["crops"], views["bases"]], 1)
            pooled = encode(encoder, every.flatten(0, 1)).pooled.unflatten(0, every.shape[:2])
        else:
            pooled = own["pooled_NVE"]
        return self._project(pooled)

    def _project(self, pooled: torch.Tensor) -> Outputs:
        projected = normalize(self.project(pooled.to(self.project[0].weight.dtype)), dim=-1)
        return {"pooled_NE": pooled[:, 0], "pooled_NVE": pooled, "projected_NVK": projected}

    def weigh(self, views: Tensors) -> dict[str, float]:
        return dict.fromkeys(("intra", "inter", "apart"), float(len(views["crops"])))

    def add_up(self, moment: Moment, views: Tensors, own: Outputs, taught: Outputs) -> dict[str, torch.Tensor]:
        count = self.config.crops
        student, teacher = widen(own["projected_NVK"]), widen(taught["projected_NVK"])
        crops, bases = student[:, :count], student[:, count:]
        overlaps = views["overlaps_CB"].to(student)
        next_bases, next_taught = self._take_next(moment, bases), self._take_next(moment, teacher[:, count:])
        wanted = compare(teacher[:, :count], next_taught).detach()
        return {
            "intra": predict(overlaps, compare(crops, teacher[:, count:])).sum(),
            "inter": predict(wanted, compare(crops, next_bases)).sum(),
            "apart": keep_apart(bases).sum(),
        }

    def _take_next(self, moment: Moment, bases_NBK: torch.Tensor) -> torch.Tensor:
        """The bases of the volume after each one in the batch of all ranks; the first one's after the last."""
        every = moment.gather_one(bases_NBK)
        first = moment.rank * len(bases_NBK) + 1
        return every.roll(-first, 0)[: len(bases_NBK)]

    def find_momentum(self, done: float) -> float:
        return self.config.momentum


def measure_overlap(one: Sequence[int], two: Sequence[int], size: tuple[int, ...]) -> float:
    """The share of a box that another one of the same size covers; one, two: where they start."""
    sides = (max(0, side - abs(a - b)) for a, b, side in zip(one, two, size, strict=True))
    return math.prod(sides) / math.prod(size)


def compare(crops_NCK: torch.Tensor, bases_NBK: torch.Tensor) -> torch.Tensor:
    """Cosines of unit vectors [N, C, B], 0 where they are negative (section 3.2)."""
    return torch.einsum("nck,nbk->ncb", crops_NCK, bases_NBK).relu()


def predict(wanted_NCB: torch.Tensor, found_NCB: torch.Tensor) -> torch.Tensor:
    """The loss of each volume [N] (section 3.2, as in the code): -log(1 - |wanted - found|) over the bases that the
    crop overlaps, weighted by `wanted`, and -log(1 - found) over the others."""
    near_NCB = -wanted_NCB * (1 - (wanted_NCB - found_NCB).abs() + SMALL).log()
    is_far_NCB = (wanted_NCB == 0).to(found_NCB.dtype)
    far_NCB = -is_far_NCB * (1 - found_NCB + SMALL).log()
    return near_NCB.sum((1, 2)) / (wanted_NCB.sum((1, 2)) + SMALL) + far_NCB.sum((1, 2)) / (
        is_far_NCB.sum((1, 2)) + SMALL
    )


def keep_apart(bases_NBK: torch.Tensor) -> torch.Tensor:
    """The mean of the squared positive cosines of pairs of bases [N]; the gradient is that of the first of a pair."""
    cosines_NBB = compare(bases_NBK, bases_NBK.detach()).square()
    count = bases_NBK.shape[1]
    first, second = torch.triu_indices(count, count, 1, device=bases_NBK.device)
    return cosines_NBB[:, first, second].mean(1)
