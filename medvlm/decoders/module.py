"""Predicts a mask from pixels with any torch.nn.Module of an installed package, by its import path."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator
from torch import nn

from medvlm.core.arguments import refuse_values
from medvlm.core.decoder_config import DecoderConfig, DecoderFacts
from medvlm.core.errors import RecipeError
from medvlm.core.imports import import_path, require_path
from medvlm.decoders._maps import count_maps
from medvlm.decoders._whole import ARGS, Whole

OUTPUT = "maps"


class Config(DecoderConfig):
    kind: Literal["module"]
    path: Annotated[str, AfterValidator(require_path)]
    """What to call, a class or a function: PACKAGE.MODULE.NAME, e.g. segmentation_models_pytorch.Unet. Importing runs
    code, so the package must be listed in `plugins`."""
    args: dict[str, Any] = {}
    """Its arguments, with the numbers of input channels and of output maps: one for each class, and one for the
    background if the classes are exclusive. E.g. {encoder_weights: null, in_channels: 3, classes: 2}. It maps [N,
    channels, *size] to logits [N, maps, *size]."""


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    return DecoderFacts((count_maps(config), *(input_shape or ())[1:]))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    """Raises RecipeError for a path that cannot be imported, or gives no nn.Module."""
    make = import_path(config.path, "model.decoders: path")
    with refuse_values(ARGS), torch.device("cpu"):
        net = make(**config.args)
    if not isinstance(net, nn.Module):
        raise RecipeError(f"model.decoders: path: {config.path} gives a {type(net).__name__}; expected an nn.Module")
    return Whole(net.to(torch.empty(0).device), count_maps(config), input_shape)
