"""Predicts classes that depend on each other as in a tree, such as opacity > consolidation > lobar consolidation, with
a head of its own for each level.

With `prompts`, the tokens of the image attend to some learned words of each level before its head reads them (HiCA-VQA,
arXiv 2504.03135, with the image as the query and the text as keys and values; its prompts are sentences, encoded by a
text tower).

A logit says whether a class is there if its parent is. The probability of a class is the product along its path, so it
is never above that of its parent, and an absent parent leaves no child.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderFacts
from medvlm.core.errors import did_you_mean
from medvlm.decoders._linear import Linear, LinearConfig

OUTPUT = "conditional_scores"
ANSWERS = "scores"
HEADS = 8


class Config(LinearConfig):
    kind: Literal["hierarchy"]
    ALWAYS_EXCLUSIVE = False
    exclusive: bool = False
    parents: dict[str, str] = Field(min_length=1)
    """Class -> the class that it is a kind of; those without one are the first level."""
    width: int = Field(128, gt=0)
    """Of the hidden layer of each level."""
    prompts: int = Field(0, ge=0, exclude_if=lambda count: not count)
    """Learned words of each level that the tokens of the image attend to."""

    @model_validator(mode="after")
    def _is_a_tree(self) -> Config:
        for name in (*self.parents, *self.parents.values()):
            if name not in self.classes:
                near = did_you_mean(name, self.classes)
                raise ValueError(f"parents: {name!r} is not among `classes`{near}")
        for name in self.classes:
            if len(find_path(self, name)) > len(self.classes):
                raise ValueError(f"parents: {name!r} is its own ancestor; expected a tree")
        if self.prompts and self.most_media > 1:
            raise ValueError("prompts are for the tokens of one image, not for `attention.of: media`; remove one")
        return self


def find_path(config: Config, name: str) -> list[str]:
    """The class, its parent, and so on."""
    path = [name]
    while path[-1] in config.parents and len(path) <= len(config.classes):
        path.append(config.parents[path[-1]])
    return path


def list_levels(config: Config) -> list[int]:
    """The level of each class, from 0."""
    return [len(find_path(config, name)) - 1 for name in config.classes]


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    config.check(grid)
    return DecoderFacts((len(config.classes),))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    return Hierarchy(config, width, grid)


class Hierarchy(nn.Module):
    """Features -> logits [N, classes], in the order of the classes."""

    def __init__(self, config: Config, width: int, grid: tuple[int, ...]):
        super().__init__()
        levels = list_levels(config)
        sizes = [levels.count(level) for level in range(max(levels) + 1)]
        self.prompts = nn.ModuleList(Prompt(width, config.prompts) if config.prompts else nn.Identity() for _ in sizes)
        self.hidden = nn.ModuleList(Linear(config, width, config.width, grid) for _ in sizes)
        self.answer = nn.ModuleList(nn.Linear(config.width, size) for size in sizes)
        self.order = sorted(range(len(levels)), key=lambda n: levels[n])

    def forward(self, features: Features) -> torch.Tensor:
        found = [
            answer(nn.functional.gelu(hidden(prompt(features))))
            for prompt, hidden, answer in zip(self.prompts, self.hidden, self.answer, strict=True)
        ]
        by_level = torch.cat(found, 1)
        return by_level[:, [self.order.index(n) for n in range(len(self.order))]]


class Prompt(nn.Module):
    """Features -> the same with what their tokens found in the words of a level: added to each token, and its mean to
    the pooled vector."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.words = nn.Parameter(torch.empty(count, width).normal_())
        self.norm = nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, math.gcd(width, HEADS), batch_first=True)

    def forward(self, features: Features) -> Features:
        words_NPE = self.words.expand(len(features.patches), -1, -1)
        found_NTE, _ = self.attend(self.norm(features.patches), words_NPE, words_NPE, need_weights=False)
        return replace(features, patches=features.patches + found_NTE, pooled=features.pooled + found_NTE.mean(1))


def to_answers(config: Config, logits: torch.Tensor) -> torch.Tensor:
    """The probability of each class, [N, classes]."""
    number = {name: n for n, name in enumerate(config.classes)}
    paths = [[number[each] for each in find_path(config, name)] for name in config.classes]
    conditional = logits.sigmoid()
    return torch.stack([conditional[:, path].prod(1) for path in paths], 1)
