"""What a file of this folder offers: Config, a subclass of SslLoss, and build(config, encoder) -> Objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import nn
from torch.nn.functional import normalize

from medvlm.core.config import Config
from medvlm.core.contracts import Features, Masking, Outputs
from medvlm.core.errors import ShapeError

if TYPE_CHECKING:
    import numpy as np

Tensors = Mapping[str, torch.Tensor]


class SslLoss(Config):
    """Base of the settings of all methods.

    has_teacher: whether the method learns from an average of its own weights. averages_encoder: whether the teacher has
    an encoder of its own, and not only the parts of the method. joins_samples: whether the loss of a sample depends on
    others, so that a batch cannot be split into micro-batches. hands_on_teacher: whether the teacher's encoder may be
    what the stage ends with; not if it is a copy from an earlier step."""

    has_teacher: ClassVar[bool] = False
    averages_encoder: ClassVar[bool] = True
    hands_on_teacher: ClassVar[bool] = True
    joins_samples: ClassVar[bool] = False
    kind: str

    def scale_down(self) -> Self:
        """The same at toy size, for a dry run. Overridden by methods with sizes of their own."""
        return self

    def find_decoder(self) -> Any:
        """The decoder of masks of a method that learns from some too; `draw` then gets them as `labels`, or None."""

    def explain_unfit(self) -> str:
        """Why its parts do not fit each other, or ""."""
        return ""


@dataclass(frozen=True)
class Moment:
    """When and among which ranks a loss is computed.

    done: share of the stage's steps before this one. rank: of this process. gather: stacks tensors [n, ...] of all
    ranks to [world * n, ...], see Engine.gather. memory: tensors that the teacher carries from step to step. upcoming:
    their values after this step, which the loss fills in."""

    done: float
    rank: int
    gather: Callable[..., tuple[torch.Tensor, ...]]
    memory: Tensors = field(default_factory=dict)
    upcoming: dict[str, torch.Tensor] = field(default_factory=dict)

    def gather_one(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.gather(tensor)[0]

    def sum_rows(self, tensor_NK: torch.Tensor) -> torch.Tensor:
        """The sum [K] of the rows of all ranks. Ranks may have different numbers of rows."""
        return self.gather_one(tensor_NK.sum(0, keepdim=True)).sum(0)


class Objective(nn.Module):
    """A method: the parts that it adds to an encoder, which are trained with it and belong to no exported model.

    canvas: the size of the images that `draw` gets, by default that of the encoder's input."""

    canvas: tuple[int, ...] = ()

    def draw(self, pixels: torch.Tensor, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """What the method sees of one image or volume [C, *canvas]: views, masks, labels. The same keys and shapes for
        every sample. Nothing else may be random."""
        raise NotImplementedError

    def forward(self, encoder: nn.Module, views: Tensors, own: Outputs | None = None) -> Outputs:
        """`pooled_NE`, by which a collapse is seen, and what the loss needs. views: what `draw` gave, stacked. own: for
        the teacher, what the student gave. The teacher runs without gradients, and without an encoder if only the
        method's parts are averaged."""
        raise NotImplementedError

    def weigh(self, views: Tensors) -> dict[str, float]:
        """Loss -> its weight, such as the number of masked patches."""
        raise NotImplementedError

    def add_up(self, moment: Moment, views: Tensors, own: Outputs, taught: Outputs) -> dict[str, torch.Tensor]:
        """Loss -> its sum over this rank's items, to be divided by the weights of all ranks. taught: the outputs of the
        teacher, empty without one."""
        raise NotImplementedError

    def diagnose(self, moment: Moment, own: Outputs, taught: Outputs) -> dict[str, tuple[float, float]]:
        """Name -> a number that is logged, and the least that it may be; below that, the method has collapsed. The same
        on every rank."""
        pooled = moment.gather_one(widen(own["pooled_NE"].detach()))
        return {"spread": (measure_spread(pooled), LEAST_SPREAD), "rank": (measure_rank(pooled), 0.0)}

    def start_memory(self) -> dict[str, torch.Tensor]:
        """What the teacher carries from step to step, such as a centre."""
        return {}

    def find_momentum(self, done: float) -> float:
        """The share that the teacher keeps of its weights in a step."""
        raise NotImplementedError

    def find_momentum_of(self, name: str, done: float) -> float:
        """The same of one of its weights: `encoders.NAME...` or `objective...`."""
        return self.find_momentum(done)


LEAST_SPREAD = 1e-5
"""Below this, all vectors of a batch are the same but for rounding."""


def measure_spread(vectors_NE: torch.Tensor) -> float:
    """The variance of the unit vectors, 1 - |mean|^2: 0 if all are the same, 1 if they point everywhere."""
    unit_NE = normalize(vectors_NE.double(), dim=1)
    return float((unit_NE - unit_NE.mean(0)).square().sum(1).mean())


def measure_rank(vectors_NE: torch.Tensor) -> float:
    """The effective rank: the exponential of the entropy of the singular values, in shares of their sum (RankMe, arXiv
    2210.02885, equation 1, of the vectors around their mean)."""
    values = torch.linalg.svdvals((vectors_NE - vectors_NE.mean(0)).double().cpu())
    shares = values / values.sum().clamp(min=1e-300) + 1e-12
    return float(torch.exp(-(shares * shares.log()).sum()))


def encode(encoder: Any, pixels: torch.Tensor, masking: Masking | None = None) -> Features:
    """The features of views of any size. A network without patches takes them as they are, a ViT interpolates its
    positions."""
    pixels = pixels.to(next(encoder.parameters()).dtype)
    if not getattr(encoder, "can_mask", False):
        found: Features = encoder(pixels)
        return found
    found = encoder(pixels, masking or Masking())
    return found


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """In float32, or in float64 if it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def require_masking(encoder: Any, method: str) -> None:
    """Raises ShapeError for an encoder whose patches cannot be masked."""
    if not getattr(encoder, "can_mask", False):
        raise ShapeError(
            f"loss.kind: {method} masks patches, which this encoder does not support; use a plain vision transformer"
            " of timm, of monai (net: ViT) or of transformers (vit, deit, dinov2), with its last layer"
        )


def find_patch(encoder: Any) -> tuple[int, ...]:
    """The sides of a patch in pixels."""
    return tuple(side // n for side, n in zip(encoder.input_shape[1:], encoder.grid, strict=True))


def split_patches(pixels: torch.Tensor, patch: tuple[int, ...]) -> torch.Tensor:
    """[N, C, *size] -> [N, T, pixels of a patch with all channels], the patches row-major."""
    for axis, side in enumerate(patch):  # [N, C, n0, p0, n1, p1, ...]
        pixels = pixels.unflatten(2 + 2 * axis, (-1, side))
    axes = len(patch)
    order = [0, *(2 + 2 * i for i in range(axes)), 1, *(3 + 2 * i for i in range(axes))]
    return pixels.permute(order).flatten(1 + axes).flatten(1, axes)


def make_positions(grid: tuple[int, ...], width: int) -> torch.Tensor:
    """Fixed sine and cosine positions [T, width] of a grid, an equal share of the channels for each axis, as in MAE. A
    remainder of channels is 0."""
    axes = len(grid)
    pairs = width // (2 * axes)
    rates = 10_000.0 ** (-torch.arange(pairs) / max(pairs, 1))
    places = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    angles = [place.flatten()[:, None] * rates for place in places]
    found = torch.cat([turn(angle) for angle in angles for turn in (torch.sin, torch.cos)], 1)
    return nn.functional.pad(found, (0, width - found.shape[1]))
