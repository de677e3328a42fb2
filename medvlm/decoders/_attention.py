"""Gated attention over the instances of a bag: slices of a volume, tiles of a slide, images of a patient (multiple
instance learning, Ilse et al. 2018, arXiv 1802.04712, equations 7 and 9). Axes: N bags, I instances, E width, A width
of the attention."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.config import Config
from medvlm.core.contracts import Features
from medvlm.core.decoder_config import Bag
from medvlm.core.errors import ShapeError

MOST = 16


class Attention(Config):
    of: Literal["tokens", "views", "media"] = "tokens"
    """The instances: all patch tokens; or the views of an input (slices, tiles or films, the first axis of a grid of
    three), each as the mean of its tokens; or all media of a sample (the images or studies of a patient), each as the
    pooled output of the encoder. Their number may differ from sample to sample."""
    width: int = Field(128, gt=0)
    most: int = Field(MOST, gt=1)
    """Of `media`: how many of a sample are read, at most, which bounds memory. Of more, training draws others in every
    epoch, and evaluation reads some at equal distances; what is left out is counted."""

    @model_validator(mode="after")
    def _most_is_of_media(self) -> Attention:
        if self.most != MOST and self.of != "media":
            raise ValueError(f"most counts the media of a sample, and `of` is {self.of}; remove it, or use `of: media`")
        return self


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
        self.of = attention.of
        self.content = nn.Linear(width, attention.width)
        self.gate = nn.Linear(width, attention.width)
        self.score = nn.Linear(attention.width, 1, bias=False)

    def forward(self, features: Features) -> torch.Tensor:
        return (self.weigh(features)[..., None] * self._list_instances(features)).sum(1)

    def weigh(self, features: Features) -> torch.Tensor:
        """The weights of the instances, [N, I]; they add up to 1. Those of media that are not there are 0."""
        instances_NIE = self._list_instances(features)
        gated_NIA = self.content(instances_NIE).tanh() * self.gate(instances_NIE).sigmoid()
        scores_NI = self.score(gated_NIA)[..., 0]
        if isinstance(features, Bag):
            scores_NI = scores_NI.masked_fill(~features.is_there_NV, float("-inf"))
        weights_NI: torch.Tensor = scores_NI.softmax(1)
        return weights_NI

    def _list_instances(self, features: Features) -> torch.Tensor:
        if self.of == "views":
            return features.patches.unflatten(1, (features.grid[0], -1)).mean(2)
        if self.of == "media" and not isinstance(features, Bag):  # one medium, as in a model of another library
            return features.pooled[:, None]
        return features.patches
