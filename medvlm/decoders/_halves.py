"""The decoding halves of networks of MONAI, on the levels of an encoder: with that of the network itself, and its
weights, they compute what the whole network computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from medvlm.core.contracts import Features, Level
from medvlm.core.errors import ShapeError


class Half(NamedTuple):
    """levels: how many it reads, 0 for any number of at least 2. encoder: modules that are left out. choose: levels ->
    arguments that follow from them. run: see _whole.Run."""

    levels: int
    encoder: tuple[str, ...]
    choose: Callable[[Sequence[Level]], dict[str, Any]]
    run: Callable[[Any, Features], Any]


def _run_unetr(net: Any, features: Features) -> Any:
    """Four layers of a ViT with patches of 16 pixels, in the order of their depth."""
    first, second, third, last = features.levels
    decoded = net.decoder5(last, net.encoder4(third))
    decoded = net.decoder4(decoded, net.encoder3(second))
    decoded = net.decoder3(decoded, net.encoder2(first))
    return net.out(net.decoder2(decoded, net.encoder1(features.pixels)))


def _run_swin_unetr(net: Any, features: Features) -> Any:
    """Five stages, from 1/2 to 1/32 of the input."""
    first, second, third, fourth, last = features.levels
    decoded = net.decoder5(net.encoder10(last), fourth)
    decoded = net.decoder4(decoded, net.encoder4(third))
    decoded = net.decoder3(decoded, net.encoder3(second))
    decoded = net.decoder2(decoded, net.encoder2(first))
    return net.out(net.decoder1(decoded, net.encoder1(features.pixels)))


def _run_segresnet(net: Any, features: Features) -> Any:
    """Stages that halve the size, the first of which has that of the input."""
    *_, last = features.levels
    return net.decode(last, list(reversed(features.levels)))


HALVES = {
    "UNETR": Half(4, ("vit",), lambda levels: {"hidden_size": levels[-1].width}, _run_unetr),
    "SwinUNETR": Half(5, ("swinViT",), lambda levels: {"feature_size": levels[0].width}, _run_swin_unetr),
    "SegResNet": Half(
        0,
        ("convInit", "down_layers"),
        lambda levels: {
            "init_filters": levels[0].width,
            "blocks_down": (1,) * len(levels),
            "blocks_up": (1,) * (len(levels) - 1),
        },
        _run_segresnet,
    ),
}


def find_half(net: str, levels: Sequence[Level]) -> Half:
    """Raises ShapeError for a network without a half, and for another number of levels."""
    half = HALVES.get(net)
    if half is None:
        raise ShapeError(f"only {', '.join(HALVES)} can read levels, and {net} cannot; remove `reads`")
    if len(levels) != half.levels and (half.levels or len(levels) < 2):
        wanted = f"{half.levels} levels" if half.levels else "at least 2 levels"
        raise ShapeError(f"{net} reads {wanted}, and the encoder has {len(levels)}; change its `levels`")
    return half


def drop_encoder(net: nn.Module, half: Half) -> None:
    for name in half.encoder:
        setattr(net, name, nn.Identity())
