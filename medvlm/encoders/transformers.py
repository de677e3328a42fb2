"""Vision towers of transformers: CLIP, SigLIP, DINOv2 and whatever else AutoModel builds with patch tokens."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, Preprocess
from medvlm.core.errors import ShapeError


class Config(EncoderConfig):
    kind: Literal["transformers"]
    model: str = ""
    """Hub id or local folder with weights."""
    config: dict[str, Any] = {}
    """Without `model`: {model_type: siglip_vision_model, hidden_size: ...}, started from scratch."""
    layer: int = Field(-1, lt=0)
    """Which hidden state gives the patch tokens, counted from the end (LLaVA's vision_feature_layer)."""
    preprocess: Preprocess | None = None
    """By default from the model's own preprocessor_config.json, else the image size of its config and mean = std = 0.5."""

    @model_validator(mode="after")
    def _one_source(self) -> Config:
        if bool(self.model) == bool(self.config):
            raise ValueError("give either `model` (hub id or folder) or `config` (from scratch)")
        if self.config and "model_type" not in self.config:
            raise ValueError("config.model_type is missing, e.g. siglip_vision_model, clip_vision_model, dinov2")
        return self


def facts(config: Config) -> EncoderFacts:
    known, stated = _known(config), _stated(config)
    patch, size = known.get("patch_size"), stated.size if stated else None
    grid = tuple(side // patch for side in size) if size and isinstance(patch, int) else None
    return EncoderFacts(width=known.get("hidden_size"), grid=grid)


def preprocess(config: Config) -> Preprocess:
    """Raises ShapeError when nothing says how large the input is."""
    if stated := _stated(config):
        return stated
    size = _auto_config(config).image_size if config.model else None
    if not isinstance(size, int):
        raise ShapeError("encoders: the image size of this tower is not known; set preprocess: {size: [height, width]}")
    return Preprocess(size=(size, size))


def build(config: Config) -> nn.Module:
    from transformers import AutoModel

    if not config.model:
        return Tower(AutoModel.from_config(_auto_config(config)), config)
    tower = AutoModel.from_pretrained(config.model, dtype="float32")
    # A whole CLIP or SigLIP checkpoint holds a text tower too; only the pixels' side is ours.
    return Tower(getattr(tower, "vision_model", tower), config)


class Tower(nn.Module):
    """[N, C, H, W] -> Features; the class and register tokens are left out of the patches."""

    def __init__(self, tower: nn.Module, config: Config):
        super().__init__()
        self.tower, self.layer = tower, config.layer
        known: Any = tower.config
        if known.num_hidden_layers + 1 < -config.layer:
            raise ShapeError(f"encoders: layer {config.layer} of a tower with {known.num_hidden_layers} layers")
        self.width: int = known.hidden_size
        before = preprocess(config)
        # DINOv2 stretches its position embeddings to any size; a tower that must be asked to is made for one size.
        if "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters and before.size != (known.image_size, known.image_size):
            raise ShapeError(f"encoders: this tower takes {known.image_size} x {known.image_size} pixels, preprocess.size is {list(before.size)}; set both to the same size")
        self.input_shape = (before.channels, *before.size)
        self.grid = tuple(side // known.patch_size for side in before.size)

    def forward(self, pixels_NCHW: Any) -> Features:
        out = self.tower(pixel_values=pixels_NCHW, output_hidden_states=True)
        hidden = out.hidden_states[self.layer]
        prefix = hidden.shape[1] - self.grid[0] * self.grid[1]
        patches = hidden[:, prefix:]
        pooled = out.pooler_output if out.pooler_output is not None else patches.mean(1)
        return Features(patches, pooled, self.grid)


def _auto_config(config: Config) -> Any:
    from transformers import AutoConfig

    if config.model:
        found = AutoConfig.from_pretrained(config.model)
        return getattr(found, "vision_config", found)
    rest = {k: v for k, v in config.config.items() if k != "model_type"}
    return AutoConfig.for_model(config.config["model_type"], **rest)


def _stated(config: Config) -> Preprocess | None:
    """The preprocessing as far as it is known without transformers."""
    if config.preprocess:
        return config.preprocess
    stored = Path(config.model) / "preprocessor_config.json"
    if config.model and stored.is_file():
        return _from_processor(json.loads(stored.read_text()))
    known = _known(config)
    size = known.get("image_size")
    return Preprocess(size=(size, size), channels=known.get("num_channels", 3)) if isinstance(size, int) else None


def _known(config: Config) -> dict[str, Any]:
    """The tower's config as far as it can be read without transformers."""
    if config.config:
        return config.config
    stored = Path(config.model) / "config.json"
    if not stored.is_file():
        return {}
    found: dict[str, Any] = json.loads(stored.read_text())
    inner: dict[str, Any] = found.get("vision_config", found)
    return inner


def _from_processor(stored: dict[str, Any]) -> Preprocess:
    crop, size = stored.get("do_center_crop", False), stored.get("size", {})
    target = stored.get("crop_size") if crop else size
    if isinstance(target, int):
        target = {"height": target, "width": target}
    if not target or "height" not in target:
        side = size.get("shortest_edge", 224)
        target = {"height": side, "width": side}
    return Preprocess(
        size=(target["height"], target["width"]),
        fit="crop" if crop else "squash",
        mean=tuple(stored.get("image_mean", (0.5, 0.5, 0.5))),
        std=tuple(stored.get("image_std", (0.5, 0.5, 0.5))),
    )
