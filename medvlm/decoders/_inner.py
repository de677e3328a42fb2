"""Encoders within a decoder, which see something else than its encoder: a part of the image, or the image turned."""

from __future__ import annotations

from typing import Any

from torch import nn

from medvlm.core.config import component
from medvlm.core.errors import ShapeError


def build_inner(tower: Any, key: str, input_shape: tuple[int, ...] = ()) -> nn.Module:
    """input_shape: that of the decoder's encoder, which it shall have too. Raises ShapeError for another one."""
    made: Any = component("encoders", tower.kind).build(tower)
    if input_shape and tuple(made.input_shape) != tuple(input_shape):
        raise ShapeError(
            f"decoders: {key} takes {list(made.input_shape)} and the encoder gives {list(input_shape)}; set"
            " preprocess.size of both alike"
        )
    built: nn.Module = made
    return built


def check_inner(tower: Any, key: str) -> None:
    """Raises ValueError for one that cannot be described without its id, as an exported folder needs it."""
    if getattr(tower, "model", ""):
        raise ValueError(f"{key}: use an encoder that builds its network by name, e.g. of kind timm")


def leave_weights(tower: Any) -> Any:
    """The config of the same encoder without weights to load."""
    left = {"pretrained": False, "weights": ""}
    return tower.model_copy(update={key: value for key, value in left.items() if key in type(tower).model_fields})
