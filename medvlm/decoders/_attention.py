"""Gated attention over the instances of a bag: slices of a volume, tiles of a slide, images of a patient (multiple
instance learning, Ilse et al. 2018, arXiv 1802.04712, equations 7 and 9). Axes: N bags, I instances, E width, A width
of the attention."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.core.config import Config
from medvlm.core.contracts import Features
from medvlm.core.errors import ShapeError


class Attention(Config):
    of: Literal["tokens", "views"] = "tokens"
    """The instances: all patch tokens, or the views of an input (slices, tiles or films, the first axis of a grid of
    three), each as the mean of its tokens."""
    width: int = Field(128, gt=0)


def check_grid(attention: Attention, grid: tuple[int, ...] | None) -> None:
    """Raises ShapeError for views of an encoder that has none."""
    if attention.of == "views" and grid is not None and len(grid) != 3:
        by_axis = " x ".join(map(str, grid))
        raise ShapeError(
            f"attention.of is views, but the encoder gives a grid of {by_axis} tokens, in which no axis counts views;"
            " use `of: tokens`, or an encoder of kind slices or of volumes"
        )


class GatedAttention(nn.Module):
    """Features -> the weighted mean of the instances, [N, E]."""

    def __init__(self, attention: Attention, width: int):
        super().__init__()
        self.of_views = attention.of == "views"
        self.content = nn.Linear(width, attention.width)
        self.gate = nn.Linear(width, attention.width)
        self.score = nn.Linear(attention.width, 1, bias=False)

    def forward(self, features: Features) -> torch.Tensor:
        instances_NIE = self._list_instances(features)
        return (self._weigh(instances_NIE)[..., None] * instances_NIE).sum(1)

    def weigh(self, features: Features) -> torch.Tensor:
        """The weights of the instances, [N, I]; they add up to 1."""
        return self._weigh(self._list_instances(features))

    def _list_instances(self, features: Features) -> torch.Tensor:
        if not self.of_views:
            return features.patches
        return features.patches.unflatten(1, (features.grid[0], -1)).mean(2)

    def _weigh(self, instances_NIE: torch.Tensor) -> torch.Tensor:
        gated_NIA = self.content(instances_NIE).tanh() * self.gate(instances_NIE).sigmoid()
        weights_NI: torch.Tensor = self.score(gated_NIA)[..., 0].softmax(1)
        return weights_NI
