"""SAM beside a frozen CNN, with a text about the medium (CC-SAM, arXiv 2408.00181; of the paper, the abstract and its
page could be read; no code was published).

The features of a CNN join those of the image encoder by variational attention: each token asks the CNN's places, and
what it hears is a Gaussian, of which a value is drawn in training and the mean is taken else. `divergence` is its
distance from the standard Gaussian (KL). A text about the kind of medium (`about`), read by a text tower, is a prompt
beside the box. Adapters of the image encoder are the stage's `lora`.
Axes: M media, S objects, T tokens, P places of the CNN, E width of the encoder, C width of SAM's parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.config import Slot
from medvlm.core.contracts import Features
from medvlm.core.mask_prompts import ABOUT, Prompts, TextWidth
from medvlm.decoders._inner import build_inner, check_inner, leave_weights
from medvlm.decoders._sam import Sam, SamConfig, facts, scale_down  # noqa: F401
from medvlm.decoders._sam_weights import read_published

OUTPUT = "maps"
READS_TEXTS = True
DIVERGENCE = "divergence"


class Config(SamConfig):
    kind: Literal["cc_sam"]
    cnn: Annotated[Any, Slot("encoders", optional=True, brief=True)] = None
    """The CNN, an encoder of the same pixels; leave it out of `trains` to keep it as it is. Without one, the image
    encoder is alone."""
    divergence: float = Field(0.01, ge=0)
    """Weight of the distance of what tokens hear of the CNN from a standard Gaussian; 0 leaves it out."""

    @model_validator(mode="after")
    def _knows_its_cnn(self) -> Self:
        check_inner(self.cnn, "cnn")
        return self


def standalone(config: Config) -> Config:
    return config.model_copy(update={"model": "", "weights": "", "cnn": config.cnn and leave_weights(config.cnn)})


def build(
    config: Config,
    width: int,
    grid: tuple[int, ...],
    input_shape: tuple[int, ...],
    text_width: TextWidth | None = None,
) -> nn.Module:
    """Raises ShapeError for what sam refuses, and for a CNN of another input."""
    facts(config, width, grid, input_shape)
    made = CcSam(config, width, grid, input_shape, text_width)
    if config.model or config.weights:
        read_published(made.sam, config.model, config.weights)
    return made


def list_terms(config: Config) -> tuple[str, ...]:
    return (DIVERGENCE,) if config.cnn is not None and config.divergence else ()


def weigh_term(config: Config, name: str, labels_S1: torch.Tensor, prompts: Prompts) -> float:
    return float(len(labels_S1))


def add_up_term(
    config: Config, name: str, outputs: Mapping[str, torch.Tensor], labels_S1: torch.Tensor, prompts: Prompts
) -> torch.Tensor:
    return config.divergence * outputs[DIVERGENCE].float().sum()


class CcSam(nn.Module):
    """Features, prompts and texts -> {"": logits of a mask for each [S, 1, *size], "divergence": [S]}."""

    TAKES_PROMPTS = SHARES_MEDIA = True

    def __init__(
        self,
        config: Config,
        width: int,
        grid: tuple[int, ...],
        input_shape: tuple[int, ...],
        text_width: TextWidth | None,
    ):
        super().__init__()
        self.reads_texts = config.list_texts()
        self.sam = Sam(config, width, tuple(grid), tuple(input_shape[1:]))
        self.say = None if text_width is None else nn.Linear(text_width.pooled, config.width)
        self.cnn: Any = None
        self.fuse: Any = None
        if config.cnn is not None:
            self.cnn = build_inner(config.cnn, "cnn", input_shape)
            self.fuse = VariationalAttention(width, self.cnn.width)

    def forward(self, features: Features, prompts: Prompts) -> dict[str, torch.Tensor]:
        rows_S, patches_MTE = prompts.rows_S, features.patches
        assert rows_S is not None and features.pixels is not None
        found: dict[str, torch.Tensor] = {}
        if self.fuse is not None:
            assert self.cnn is not None
            patches_MTE, apart_M = self.fuse(patches_MTE, self.cnn(features.pixels).patches.to(patches_MTE.dtype))
            found[DIVERGENCE] = apart_M[rows_S]
        told_STC = None if self.say is None else self.say(prompts.read[ABOUT].pooled_SE)[:, None]
        seen = Features(patches_MTE[rows_S], features.pooled[rows_S], features.grid)
        unread = 0 * sum(each.pooled_SE.sum() for each in prompts.read.values())
        return found | {"": self.sam(seen, prompts, told_STC)[""] + unread}


class VariationalAttention(nn.Module):
    """Tokens [M, T, E] and places [M, P, W] -> (tokens with what they hear, [M] distances from a standard Gaussian in
    nats a number). It begins with nothing heard."""

    def __init__(self, width: int, other: int):
        super().__init__()
        self.norm, self.norm_other = nn.LayerNorm(width), nn.LayerNorm(other)
        self.ask, self.key, self.value = nn.Linear(width, width), nn.Linear(other, width), nn.Linear(other, width)
        self.mean, self.log_variance = nn.Linear(width, width), nn.Linear(width, width)
        self.close = nn.Linear(width, width)
        nn.init.zeros_(self.close.weight)
        nn.init.zeros_(self.close.bias)

    def forward(self, tokens_MTE: torch.Tensor, places_MPW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        places = self.norm_other(places_MPW)
        logits_MTP = self.ask(self.norm(tokens_MTE)) @ self.key(places).transpose(1, 2) / math.sqrt(tokens_MTE.shape[2])
        heard = logits_MTP.softmax(2) @ self.value(places)
        mean, log_variance = self.mean(heard), self.log_variance(heard).clamp(-10, 10)
        drawn = mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean
        apart_M = (mean.square() + log_variance.exp() - log_variance - 1).flatten(1).mean(1) / 2
        return tokens_MTE + self.close(drawn), apart_M
