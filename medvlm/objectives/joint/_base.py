"""What a file of this folder offers: Config, a subclass of JointLoss, and build(config, towers) -> Objective.

Optional: refuse(config, model) -> why it does not fit the section `model` of the recipe, or "".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import Field
from torch import nn

from medvlm.core.config import Config
from medvlm.core.contracts import Outputs
from medvlm.core.joint import Item, Seen

Tensors = Mapping[str, torch.Tensor]


class JointLoss(Config):
    kind: str
    weight: float = Field(1.0, gt=0)
    """Factor on the loss."""

    @property
    def hides_words(self) -> bool:
        """Whether the text tower needs a token that stands for a hidden word."""
        return False

    def scale_down(self) -> Self:
        """The same at toy size, for a dry run. Overridden by losses with sizes of their own."""
        return self


@dataclass(frozen=True)
class Ranks:
    """rank: of this process. gather: stacks tensors [n, ...] of all ranks, with gradients, see Engine.gather.
    find_most: the largest of a number over the ranks."""

    rank: int
    gather: Callable[..., tuple[torch.Tensor, ...]]
    find_most: Callable[[int], int]

    def gather_padded(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The same for tensors [n, k, ...] of which each rank has another k: they get rows of zeros up to the largest,
        and at least one."""
        most = self.find_most(max(1, tensors[0].shape[1]))
        return self.gather(*(pad_rows(tensor, most) for tensor in tensors))

    def find_own(self, count: int) -> slice:
        """Which of the pairs of all ranks are of this one, if each has `count`."""
        return slice(self.rank * count, (self.rank + 1) * count)


class Objective(nn.Module):
    """A loss with the parts that it adds to the towers, which are trained with it and belong to no exported model."""

    def read(self, item: Item) -> dict[str, torch.Tensor]:
        """What the loss needs of a sample besides its text. The same keys for every sample; tensors may differ in the
        length of their first axis, and are then padded with -1."""
        return {}

    def forward(self, seen: Seen, read: Tensors) -> Outputs:
        """What the loss needs, [N, ...] or without axes; tensors of `read` included. read: what `read` gave,
        stacked."""
        raise NotImplementedError

    def weigh(self, read: Tensors, count: int) -> dict[str, float]:
        """Loss -> its weight. A single one has the name "". count: of the pairs of a micro-batch."""
        return {"": float(count)}

    def add_up(self, ranks: Ranks, outputs: Outputs, concepts_N: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss -> its sum over the items of this rank, to be divided by the weights of all ranks. concepts_N: of its
        pairs; equal numbers mark pairs that match. Called on every rank."""
        raise NotImplementedError


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """float32, unless it is float64 already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def pad_rows(tensor: torch.Tensor, length: int, value: float = 0) -> torch.Tensor:
    """[n, k, ...] -> [n, length, ...]."""
    missing = length - tensor.shape[1]
    if not missing:
        return tensor
    return torch.cat([tensor, tensor.new_full((len(tensor), missing, *tensor.shape[2:]), value)], 1)


def stack_read(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stacks what a loss has read of several samples."""
    found = {}
    for name in items[0]:
        tensors = [item[name] for item in items]
        most = max((len(each) for each in tensors if each.ndim), default=0)
        found[name] = torch.cat([pad_rows(each[None], most, -1) if each.ndim else each[None] for each in tensors])
    return found
