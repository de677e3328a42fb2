"""Predicts a mask with a network of MONAI: UNet, DynUNet, SegResNet, SwinUNETR, UNETR, MedNeXt, AttentionUnet, and
others of monai.networks.nets that are built with in_channels and out_channels; whole, or with its decoding half on an
encoder of ours."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import field_validator
from torch import nn

from medvlm.core.arguments import refuse_unknown
from medvlm.core.contracts import Level
from medvlm.core.decoder_config import DecoderConfig, DecoderFacts
from medvlm.core.errors import RecipeError, did_you_mean
from medvlm.decoders._halves import drop_encoder, find_half
from medvlm.decoders._maps import count_maps
from medvlm.decoders._whole import ARGS, Whole

OUTPUT = "maps"
LIBRARY = "monai"
GIVEN = ("in_channels", "out_channels", "spatial_dims", "img_size")
"""Arguments that the encoder and the classes decide."""


class Config(DecoderConfig):
    kind: Literal["monai"]
    net: str
    """A class of monai.networks.nets, e.g. UNet."""
    reads: Literal["pixels", "levels"] = "pixels"
    """`pixels`: the whole network, on what the encoder was given. `levels`: the decoding half of UNETR, SwinUNETR or
    SegResNet, on the `levels` of the encoder and on the pixels."""
    args: dict[str, Any] = {}
    """Other arguments of the class, e.g. {channels: [16, 32, 64, 128], strides: [2, 2, 2], num_res_units: 2} for UNet.
    in_channels, out_channels, spatial_dims and img_size follow from the encoder and the classes."""

    @field_validator("args")
    @classmethod
    def _check_given(cls, args: dict[str, Any]) -> dict[str, Any]:
        for name in args:
            if name in GIVEN:
                raise ValueError(f"{name} follows from the encoder and the classes; remove it")
        return args


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    return DecoderFacts((count_maps(config), *(input_shape or ())[1:]))


def reads_levels(config: Config) -> bool:
    return config.reads == "levels"


def build(
    config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...], levels: tuple[Level, ...] = ()
) -> nn.Module:
    """Raises RecipeError for a network that MONAI does not have or build, ShapeError for levels that do not fit it."""
    from monai.networks import nets

    fitting = {name: taken for name, taken in vars(nets).items() if {*GIVEN[:2]} <= _list_parameters(taken)}
    if config.net not in fitting:
        near = did_you_mean(config.net, fitting)
        raise RecipeError(
            f"model.decoders: net: monai.networks.nets has no {config.net!r} that is built with in_channels and"
            f" out_channels{near}"
        )
    known: Mapping[str, Any] = _find_given(config, input_shape, fitting[config.net])
    half = find_half(config.net, levels) if config.reads == "levels" else None
    known = {**known, **(half.choose(levels) if half else {})}
    with refuse_unknown(ARGS, config.args, lambda: [nets]), torch.device("cpu"):
        # On the CPU, since MONAI reads the rates of stochastic depth out of a tensor, which fails on the meta device.
        net: nn.Module = fitting[config.net](**{**known, **config.args})
    if half is None:
        return Whole(net.to(torch.empty(0).device), count_maps(config), input_shape)
    drop_encoder(net, half)
    return Whole(net.to(torch.empty(0).device), count_maps(config), input_shape, half.run, levels)


def not_stock(config: Config) -> str | None:
    """Why MONAI cannot build the network by itself, or None."""
    return (
        f"reads is {config.reads}: only the decoding half is a network of MONAI" if config.reads != "pixels" else None
    )


def describe_network(config: Config, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """The whole network as a bundle of MONAI states it: its class and arguments."""
    from monai.networks import nets

    given = _find_given(config, input_shape, vars(nets)[config.net])
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return {"_target_": config.net, **given, **config.args}


def _find_given(config: Config, input_shape: tuple[int, ...], net: Any) -> dict[str, Any]:
    """Those arguments that the encoder and the classes decide, of those that the network takes."""
    values = input_shape[0], count_maps(config), len(input_shape) - 1, input_shape[1:]
    return {name: value for name, value in zip(GIVEN, values, strict=True) if name in _list_parameters(net)}


def _list_parameters(taken: Any) -> set[str]:
    is_network = inspect.isclass(taken) and issubclass(taken, nn.Module)
    return set(inspect.signature(taken).parameters) if is_network else set()
