"""The image encoders of SAM 2 (a Hiera with a pyramid, arXiv 2408.00714, appendix D) and SAM 3 (a ViT with a pyramid,
arXiv 2511.16719), of transformers: the three levels that their mask decoders read, of strides 4, 8 and 16 in SAM 2, and
as patch tokens the coarsest of them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import nn

from medvlm.core.arguments import refuse_values
from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, LeveledConfig, Loaded, Preprocess
from medvlm.core.weights import describe, from_pretrained, open_stock
from medvlm.encoders._features import MeasuredEncoder, join_maps

LIBRARY = "transformers"
KNOWN = ("sam2_vision_model", "sam3_vision_model")
LEVELS = 3


class Config(LeveledConfig, Loaded):
    kind: Literal["sam_levels"]
    model: str = ""
    """Hub id or folder, e.g. facebook/sam2.1-hiera-tiny."""
    config: dict[str, Any] = {}
    """Instead of `model`: the config of an encoder that starts from scratch, {model_type: sam2_vision_model, ...}."""
    levels: tuple[Literal[-3], Literal[-2], Literal[-1]] = (-3, -2, -1)  # type: ignore[assignment]
    preprocess: Preprocess

    @model_validator(mode="after")
    def _one_source(self) -> Config:
        if bool(self.model) == bool(self.config):
            raise ValueError("give either `model` (hub id or folder) or `config` (from scratch)")
        if self.config and self.config.get("model_type") not in KNOWN:
            raise ValueError(f"config.model_type is none of {', '.join(KNOWN)}")
        return self


def facts(config: Config) -> EncoderFacts:
    return EncoderFacts(width=None, grid=None)


def preprocess(config: Config) -> Preprocess:
    return config.preprocess


def not_stock(config: Config) -> str:
    """Why transformers alone cannot compute this encoder; "" because it can."""
    return ""


def build(config: Config) -> nn.Module:
    from transformers import AutoConfig, AutoModel, AutoModelForMaskGeneration

    if config.model:
        auto = AutoModelForMaskGeneration if _has_two_necks(config.model) else AutoModel
        whole = from_pretrained(auto, config.model, config, "encoders")
        tower = getattr(whole, "vision_encoder", whole)
    else:
        # Copied, because transformers writes into nested settings.
        rest = {key: deepcopy(value) for key, value in config.config.items() if key != "model_type"}
        with refuse_values("model.encoders: config"):
            made = AutoConfig.for_model(config.config["model_type"], **rest)
            tower = AutoModel.from_config(made, trust_remote_code=False)
    return Levels(tower, config)


def _has_two_necks(model: str) -> bool:
    """Whether this is SAM 3 as it is published: a neck of its detector, and one of what boxes and points prompt, which
    is the one to read."""
    from transformers import AutoConfig

    try:
        return bool(open_stock(AutoConfig, model).model_type == "sam3_video")
    except (OSError, ValueError):  # from_pretrained() says what is wrong with it
        return False


def standalone(config: Config, built: Any) -> Config:
    return config.model_copy(update={"model": "", "config": describe(built.tower)}) if config.model else config


class Levels(MeasuredEncoder):
    """[N, C, H, W] -> Features, with the levels from the finest to the coarsest."""

    def __init__(self, tower: nn.Module, config: EncoderConfig):
        super().__init__()
        self.tower: Any = tower
        self.level_layers = tuple(range(-LEVELS, 0))
        before: Any = vars(config)["preprocess"]
        self.measure(before.shape, EncoderFacts(width=None, grid=None))

    def forward(self, pixels_NCHW: torch.Tensor) -> Features:
        maps = tuple(self.tower(pixels_NCHW).fpn_hidden_states[:LEVELS])
        return replace(join_maps(maps[-1:]), levels=maps)
