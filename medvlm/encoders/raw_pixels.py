"""The pixels themselves: no network, so the baseline of every encoder. The vector of an image is all of its pixels
after preprocessing, at `preprocess.size`; choose a small one."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, Preprocess


class Config(EncoderConfig):
    kind: Literal["raw_pixels"]
    preprocess: Preprocess


def facts(config: Config) -> EncoderFacts:
    return EncoderFacts(width=math.prod(config.preprocess.shape), grid=(1,) * len(config.preprocess.size))


def preprocess(config: Config) -> Preprocess:
    return config.preprocess


def build(config: Config) -> nn.Module:
    return RawPixels(config)


def standalone(config: Config, built: nn.Module) -> Config:
    return config


class RawPixels(nn.Module):
    """[N, C, *size] -> one token with all of them."""

    def __init__(self, config: Config):
        super().__init__()
        self.input_shape, self.grid = config.preprocess.shape, facts(config).grid
        self.width = math.prod(self.input_shape)

    def forward(self, pixels: torch.Tensor) -> Features:
        flat = pixels.flatten(1)
        return Features(flat[:, None], flat, self.grid or ())
