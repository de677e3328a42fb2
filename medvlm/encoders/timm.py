"""Any 2D network of timm: ViT, CNN or hybrid."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.core.contracts import EncoderFacts, Features, Layers, LeveledConfig, LoadedFile, Masking, Preprocess
from medvlm.core.errors import ShapeError
from medvlm.encoders._features import MeasuredEncoder, join_maps, select_layers
from medvlm.encoders._masking import open_timm
from medvlm.encoders._timm import create

LIBRARY = "timm"
"""The library that the class of `tower` is from."""
CAN_BE_FUSED = SEES_SLICES = True
TOY_VIT = {"depth": 2, "embed_dim": 96, "num_heads": 4}
TOY_DAVIT = {"depths": [1, 1, 1, 1], "embed_dims": [16, 32, 48, 96], "num_heads": [1, 2, 3, 4]}
VITS = ("vit", "eva", "deit", "beit", "samvit")
TOYS: dict[str, dict[str, Any]] = {**dict.fromkeys(VITS, TOY_VIT), "davit": TOY_DAVIT}
"""How names of networks begin -> their arguments in a dry run."""


class Config(LeveledConfig, LoadedFile):
    kind: Literal["timm"]
    net: str
    """A name of timm.list_models(), or hf-hub:ORG/NAME. A hub model made for another size than preprocess.size needs
    args: {img_size: [H, W]}; for timm's own models this is set automatically."""
    pretrained: bool = False
    layer: Layers | None = None
    """By default the output of the network after its last norm. -2 is the second to last block of a ViT, or stage of a
    CNN."""
    pool: Literal["mean", "class"] = Field("mean", exclude_if=lambda pool: pool == "mean")
    """The vector of the whole image: the mean of the patch tokens, or the class token of a ViT."""
    args: dict[str, Any] = {}
    """Extra arguments of timm.create_model, e.g. {depth: 4, embed_dim: 128}."""
    preprocess: Preprocess


def scale_down(config: Config) -> Config:
    """At toy size: a transformer gets few and narrow layers, unless the recipe sets its size. Other networks keep
    theirs."""
    toy = next((toy for begin, toy in TOYS.items() if config.net.split("_")[0].startswith(begin)), {})
    if {"depth", "embed_dim"} & config.args.keys():
        return config
    return config.model_copy(update={"args": {**config.args, **toy}}) if toy else config


def facts(config: Config) -> EncoderFacts:
    return EncoderFacts(width=None, grid=None)


def preprocess(config: Config) -> Preprocess:
    return config.preprocess


def not_stock(config: Config) -> str:
    """Why timm alone cannot compute this encoder; "" because it can."""
    return ""


def build(config: Config) -> nn.Module:
    return Net(config)


def standalone(config: Config, built: nn.Module) -> Config:
    return config.model_copy(update={"pretrained": False, "weights": ""})


class Net(MeasuredEncoder):
    """[N, C, H, W] -> Features. The patches exclude prefix tokens (class, registers)."""

    def __init__(self, config: Config):
        super().__init__()
        self.tower: Any = create(config)
        size = config.preprocess.size
        self.prefix: int = getattr(self.tower, "num_prefix_tokens", 0)
        self.is_channels_last = getattr(self.tower, "output_fmt", "") == "NHWC"
        # In a hybrid the stem strides too, so the patch size alone is not the reduction; timm reports the total.
        self.vit_grid = tuple(side // self.tower.feature_info[-1]["reduction"] for side in size)
        self.layers, self.level_layers = None, config.levels
        if config.layer is not None or config.levels:
            if not hasattr(self.tower, "forward_intermediates"):
                key = "levels" if config.levels else "layer"
                raise ShapeError(f"encoders: timm does not expose the inner layers of {config.net}; remove `{key}`")
            count = len(self.tower.feature_info)
            self.level_layers = select_layers(config.levels, count)
            self.layers = select_layers(config.levels[-1] if config.layer is None else config.layer, count)
        self.net, self.pool = config.net, config.pool
        if self.pool == "class" and (self.layers is not None or getattr(self.tower, "cls_token", None) is None):
            raise ShapeError(f"encoders: pool: class needs a class token, and {config.net} gives none; use pool: mean")
        self.can_mask = open_timm(self.tower) is not None
        self.measure(config.preprocess.shape, facts(config))

    def forward(self, pixels_NCHW: torch.Tensor, masking: Masking | None = None) -> Features:
        if masking is not None:
            return self._forward_masked(pixels_NCHW, masking)
        if self.layers is not None:
            wanted = sorted({*self.layers, *self.level_layers})
            maps = dict(
                zip(
                    wanted,
                    self.tower.forward_intermediates(pixels_NCHW, indices=wanted, intermediates_only=True),
                    strict=True,
                )
            )
            levels = tuple(maps[n] for n in self.level_layers)
            return replace(join_maps([maps[n] for n in self.layers]), levels=levels)
        features = self.tower.forward_features(pixels_NCHW)
        if features.ndim == 4:  # CNNs return [N, C, h, w], Swin-like networks [N, h, w, C], ViTs [N, T, C]
            return join_maps([features.permute(0, 3, 1, 2) if self.is_channels_last else features])
        patches = features[:, self.prefix :]
        if patches.shape[1] != math.prod(self.vit_grid):
            raise ShapeError(
                f"encoders: {self.net} gives {features.shape[1]} tokens for {list(pixels_NCHW.shape[2:])} pixels;"
                f" expected {self.prefix} prefix tokens and a grid of {list(self.vit_grid)}; choose a preprocess.size"
                " that its patches tile, or another network"
            )
        return Features(patches, features[:, 0] if self.pool == "class" else patches.mean(1), self.vit_grid)

    def _forward_masked(self, pixels_NCHW: torch.Tensor, masking: Masking) -> Features:
        trunk = open_timm(self.tower)
        assert trunk is not None, self.net
        return trunk.encode(pixels_NCHW, masking, self.pool == "class")
