"""Builds encoders, connectors and text towers by kind, each with its own seed, and maps parameters to parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from medvlm.core.config import component, did_you_mean
from medvlm.core.contracts import Features, Preprocess
from medvlm.core.errors import RecipeError, ShapeError, list_some
from medvlm.core.lora_config import FACTORS
from medvlm.models.deepstack import StackedConnector, join_layers

T = TypeVar("T")


def build_seeded(seed: int, name: str, build: Callable[[], T]) -> T:
    """The result of `build`, with torch's random state set from (seed, name), so that the initialization of a part does
    not depend on other parts."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest(), "big")
    with torch.random.fork_rng():
        torch.manual_seed(key)
        return build()


def build_encoders(configs: Mapping[str, Any], seed: int) -> nn.ModuleDict:
    def build(name: str) -> nn.Module:
        config = join_layers(configs[name])
        return build_seeded(seed, f"encoders.{name}", lambda: component("encoders", config.kind).build(config))

    return nn.ModuleDict({name: build(name) for name in configs})


def build_connectors(configs: Mapping[str, Any], encoders: nn.ModuleDict, width: int, seed: int) -> nn.ModuleDict:
    def build(name: str) -> nn.Module:
        config, encoder = configs[name].connector, encoders[name]
        make = component("connectors", config.kind).build
        if deep := len(configs[name].deepstack):
            own = len(configs[name].layer) if isinstance(configs[name].layer, tuple) else 1
            _check_widths(configs[name], name, encoder.width, own, deep)
            make_one = partial(make, config, out_width=width, grid=encoder.grid)
            stacked = partial(StackedConnector, make_one, deep, encoder.width, own)
            return build_seeded(seed, f"connectors.{name}", stacked)
        return build_seeded(seed, f"connectors.{name}", lambda: make(config, encoder.width, width, encoder.grid))

    return nn.ModuleDict({name: build(name) for name in configs})


def preprocess_of(configs: Mapping[str, Any]) -> dict[str, Preprocess]:
    return {name: component("encoders", c.kind).preprocess(c) for name, c in configs.items()}


def tokens_of(configs: Mapping[str, Any]) -> dict[str, int]:
    """Encoder -> its number of image tokens per medium. Encoders without a connector are left out."""
    return {
        name: component("connectors", c.connector.kind).tokens(c.connector, _find_grid(c))
        for name, c in configs.items()
        if c.connector
    }


def _check_widths(config: Any, name: str, width: int, own: int, deep: int) -> None:
    """Raises ShapeError for an encoder whose layers differ in width: it is not known which channels are which then."""
    with torch.device("meta"):
        alone = component("encoders", config.kind).build(config).width
    if alone * (own + deep) != width * own:
        raise ShapeError(
            f"model.encoders.{name}: deepstack needs layers of one width; these have {width} channels together, and"
            f" {alone} without it"
        )


def _find_grid(config: Any) -> tuple[int, ...]:
    kind = component("encoders", config.kind)
    if (known := kind.facts(config).grid) is not None:
        return tuple(known)
    with torch.device("meta"):  # only shapes: no memory, no weights
        return tuple(kind.build(config).grid)


def encode(encoder: nn.Module, pixels: torch.Tensor, name: str) -> Features:
    """The features of an encoder. Keeps no activations for the backward pass if it is frozen.

    Raises ShapeError if the pixels do not have the encoder's input shape.
    """
    if tuple(pixels.shape[1:]) != tuple(encoder.input_shape):
        raise ShapeError(
            f"encoders.{name} takes {tuple(encoder.input_shape)}, the batch has {tuple(pixels.shape[1:])}; set"
            f" encoders.{name}.preprocess.size"
        )
    dtype = next(encoder.parameters(), pixels).dtype  # pixels are float32, a model may be trained in bfloat16
    deal = get_deal(encoder)
    with torch.set_grad_enabled(torch.is_grad_enabled() and is_trained(encoder)):
        if deal is None:
            features: Features = encoder(pixels.to(dtype))
        elif getattr(encoder, "DEALS_VIEWS", False):
            features = encoder(pixels.to(dtype), deal)
        else:
            patches, pooled, *levels = deal(lambda rows: _get_tensors(encoder(rows)), pixels.to(dtype))
            features = Features(patches, pooled, tuple(encoder.grid), tuple(levels))
    return features


def _get_tensors(features: Features) -> tuple[torch.Tensor, ...]:
    return features.patches, features.pooled, *features.levels


def get_deal(encoder: nn.Module) -> Any:
    """What deals the inputs of an encoder over the ranks (train/dealing.py), None if nothing does. Only in training:
    elsewhere ranks may call the model at different times."""
    return getattr(encoder, "deal", None) if torch.is_grad_enabled() else None


def complete_media(
    encoders: nn.ModuleDict,
    media: Mapping[str, torch.Tensor],
    is_needed: Callable[[str], bool],
    device: torch.device,
    least: int = 0,
) -> dict[str, torch.Tensor]:
    """The media in the order of the encoders, with one medium of zeros for each encoder that must run without a medium.
    If its inputs are dealt over the ranks, there are `least` instead, since other ranks give it some.

    If ranks communicate within the forward or backward pass of a tower, all of them must run it, in the same order.
    """
    return {
        name: media[name] if name in media else torch.zeros(least if get_deal(e) else 1, *e.input_shape, device=device)
        for name, e in encoders.items()
        if name in media or is_needed(name)
    }


def is_trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


# --- which parameters a name in `trains` means ------------------------------------------------------


NAMED = ("encoders", "connectors", "decoders", "terms")
"""Containers of several parts, each under its name in the recipe."""


def group_of(parameter: str) -> str:
    """The group of a parameter, as used in `trains`: encoders.film, decoders.lesion, language, lora, text, heads."""
    if ".lora_" in parameter:
        return "lora"
    return module_of(parameter)


def module_of(parameter: str) -> str:
    """The module of a parameter. Adapters belong to the module that contains them."""
    first, *rest = parameter.split(".")
    return f"{first}.{rest[0]}" if first in NAMED else first


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters per module, including adapters."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        counts[module_of(name)] = counts.get(module_of(name), 0) + parameter.numel()
    return counts


def matches(parameter: str, pattern: str) -> bool:
    """A pattern names a group, a module by its dotted path, or parameters by a path with *. `lora.A` and `lora.B` are
    the two factors of the adapters. A model has the adapters of one name at most, so `lora.NAME` is all of them."""
    if pattern.partition(".")[0] == "lora":
        factor = pattern.removeprefix("lora.") if pattern.removeprefix("lora.") in FACTORS else ""
        return group_of(parameter) == "lora" and f".lora_{factor}" in parameter
    if group_of(parameter) == "lora":
        return False
    if "*" in pattern:
        return fnmatchcase(parameter, pattern)
    return parameter == pattern or parameter.startswith(pattern + ".")


def set_trained(model: nn.Module, trains: tuple[str, ...], stage: str) -> None:
    """Sets requires_grad by the patterns of `trains`. Raises RecipeError for a pattern that matches nothing."""
    names = [n for n, _ in model.named_parameters()]
    for pattern in trains:
        if not any(matches(n, pattern) for n in names):
            groups = sorted({group_of(n) for n in names})
            near = did_you_mean(pattern, groups)
            raise RecipeError(
                f"stages.{stage}.trains: {pattern!r} matches no parameter{near} (this model has {list_some(groups)})"
            )
    for name, parameter in model.named_parameters():
        wanted = any(matches(name, pattern) for pattern in trains)
        if wanted and not parameter.is_floating_point():
            raise RecipeError(
                f"stages.{stage}.trains: {name} is quantized, and only adapters of it can be trained; train lora, or"
                " leave out `quantize`"
            )
        if parameter.is_floating_point():
            parameter.requires_grad_(wanted)


def set_modes(model: nn.Module) -> None:
    """Sets train mode for modules with trained parameters, eval mode for frozen ones (no dropout, no updates of batch
    statistics).

    A module without parameters (dropout) follows its parent: an adapter's dropout is on, a frozen tower's is off."""
    model.training = is_trained(model)
    for module in model.modules():  # parents come before their children
        for child in module.children():
            child.training = is_trained(child) if any(True for _ in child.parameters()) else module.training


@contextmanager
def joining(model: nn.Module) -> Iterator[None]:
    """Within this context, adapters are added to their matrices where that is exact (see models/lora_layer.py)."""
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "joined")]
    try:
        for layer in layers:
            layer.join()
        yield
    finally:
        for layer in layers:
            layer.joined = None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context with eval mode and without gradients. Restores the mode of every module."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
