"""Whole networks as decoders, feature pyramids, and what they refuse."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.config import component, permit
from medvlm.core.contracts import Features, Level
from medvlm.core.errors import RecipeError, ShapeError, UserError

CLASSES = ("liver", "spleen")
THREE: dict[str, Any] = {"kernel_size": (3, 3, 3), "strides": (1, 2, 2), "upsample_kernel_size": (2, 2)}
NETS: dict[str, dict[str, Any]] = {
    "UNet": {"channels": (4, 8), "strides": (2,), "num_res_units": 1},
    "DynUNet": {**THREE, "filters": (4, 8, 8)},
    "SegResNet": {"blocks_down": (1, 1), "blocks_up": (1,)},
    "SwinUNETR": {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 2},
    "UNETR": {"feature_size": 4, "hidden_size": 12, "mlp_dim": 12, "num_heads": 2},
    "MedNeXt": {"init_filters": 4, "kernel_size": 3, "blocks_down": (1,), "blocks_bottleneck": 1, "blocks_up": (1,)},
    "AttentionUnet": {"channels": (4, 8), "strides": (2,)},
}


def config_of(kind: str, **settings: Any) -> Any:
    return component("decoders", kind).Config(**{"kind": kind, "classes": CLASSES, **settings})


def build(kind: str, shape: tuple[int, ...], seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    return component("decoders", kind).build(config_of(kind, **settings), shape[0], shape[1:], shape)


def see(pixels: torch.Tensor) -> Features:
    return Features(pixels.flatten(2).transpose(1, 2), pixels.mean((2, 3)), tuple(pixels.shape[2:]), (), pixels)


@pytest.mark.parametrize(("net", "axes"), [*((net, 2) for net in NETS), ("UNet", 3), ("SegResNet", 3)])
def test_a_network_of_monai_is_that_of_monai(net: str, axes: int) -> None:
    from monai.networks import nets

    shape = (2, *(64 if net == "SwinUNETR" else 32,) * axes)
    decoder = build("monai", shape, net=net, args=NETS[net]).eval()
    own = {"spatial_dims": axes, **({"img_size": shape[1:]} if net == "UNETR" else {})}
    torch.manual_seed(0)
    theirs = getattr(nets, net)(in_channels=2, out_channels=3, **own, **NETS[net]).eval()
    pixels = torch.randn(1, *shape)
    with torch.no_grad():
        assert torch.equal(decoder(see(pixels)), theirs(pixels))
    with torch.device("meta"):
        assert all(p.is_meta for p in build("monai", shape, net=net, args=NETS[net]).parameters())


@pytest.mark.parametrize(
    ("net", "args", "sides"),
    [
        ("DynUNet", {**NETS["DynUNet"], "deep_supervision": True}, ((32, 48),)),
        ("MedNeXt", {**NETS["MedNeXt"], "blocks_down": (1, 1), "blocks_up": (1, 1), "deep_supervision": True}, None),
    ],
)
def test_side_outputs_are_there_in_training_only(net: str, args: dict[str, Any], sides: Any) -> None:
    decoder = build("monai", (1, 32, 48), net=net, args=args)
    found = decoder.train()(see(torch.randn(2, 1, 32, 48)))
    assert isinstance(found, list) and len(found) > 1
    assert decoder.sides == (sides or tuple(tuple(side.shape[2:]) for side in found[1:]))
    assert all(side.shape[:2] == (2, 3) for side in found)
    assert decoder.eval()(see(torch.randn(2, 1, 32, 48))).shape == (2, 3, 32, 48)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"net": "UNett"}, "has no 'UNett' that is built with in_channels and out_channels, did you mean 'UNet'"),
        ({"net": "ViT"}, "has no 'ViT' that is built with"),
        ({"net": "UNet"}, "args.*missing 2 required positional arguments: 'channels' and 'strides'"),
        (
            {"net": "SegResNet", "args": {"init_filter": 8}},
            "args.init_filter: SegResNet takes no such argument, did you",
        ),
        ({"net": "UNet", "args": {"channels": (4, 8, 8, 8), "strides": (2, 2, 2)}}, "args or preprocess.size: "),
        (
            {"net": "SegResNet", "args": {**NETS["SegResNet"], "use_conv_final": False}},
            r"gives \[8, 18, 20\].*expected 3 maps of the size",
        ),
    ],
)
def test_a_network_that_cannot_make_the_mask_is_refused_before_training(settings: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("monai", (1, 18, 20), **settings)


def test_what_follows_from_the_encoder_is_not_an_argument() -> None:
    with pytest.raises(ValueError, match="out_channels follows from the encoder and the classes; remove it"):
        config_of("monai", net="UNet", args={"out_channels": 3})


# --- on an encoder of ours ---------------------------------------------------------------------------------

SWIN = NETS["SwinUNETR"]
GREY = {"channels": 1, "mean": [0.5], "std": [0.5]}
HALVES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "SwinUNETR": (
        {"net": "SwinUNETR", "args": SWIN, "levels": (-5, -4, -3, -2, -1)},
        {},
        {"swinViT.": ""},
    ),
    "SegResNet": (
        {"net": "SegResNet", "args": {"init_filters": 8, "blocks_down": (1, 1, 1)}, "levels": (-3, -2, -1)},
        {},
        {"convInit.": "convInit.", "down_layers.": "down_layers."},
    ),
    "UNETR": (
        {"net": "ViT", "patch": (16, 16, 16), "width": 12, "layers": 12, "heads": 2, "levels": (-9, -6, -3, -1)},
        {"feature_size": 4, "mlp_dim": 48, "num_heads": 2},
        {"vit.": ""},
    ),
}


@pytest.mark.parametrize("net", HALVES)
def test_the_half_of_a_network_on_its_own_encoder_is_the_whole_network(net: str) -> None:
    """UNETR reads the last layer of its ViT after the norm; ours gives it before, so the norm is left out there too."""
    from monai.networks import nets

    settings, args, kept = HALVES[net]
    kind = component("encoders", "monai")
    size = (64, 64, 64) if net == "SwinUNETR" else (32, 32, 32)
    encoder = kind.build(kind.Config(kind="monai", preprocess={"size": size, **GREY}, **settings)).eval()
    config = config_of("monai", net=net, reads="levels", args=args)
    decoder = component("decoders", "monai").build(config, 12, (2, 2, 2), (1, *size), levels=encoder.levels).eval()
    own = {**args, **({"img_size": size, "hidden_size": 12} if net == "UNETR" else settings["args"])}
    own |= {"blocks_up": (1, 1)} if net == "SegResNet" else {}
    whole: Any = getattr(nets, net)(in_channels=1, out_channels=3, spatial_dims=3, **own).eval()
    if net == "UNETR":
        whole.vit.norm = nn.Identity()
    weights = whole.state_dict()
    for ours, theirs in kept.items():
        part = {theirs + n.removeprefix(ours): value for n, value in weights.items() if n.startswith(ours)}
        assert not encoder.tower.load_state_dict(part, strict=False).unexpected_keys and part
    missing = decoder.net.load_state_dict(weights, strict=False)
    assert not missing.missing_keys and all(name.startswith(tuple(kept)) for name in missing.unexpected_keys)
    pixels = torch.randn(1, 1, *size)
    with torch.no_grad():
        seen = encoder(pixels)
        found = decoder(Features(seen.patches, seen.pooled, seen.grid, seen.levels, pixels))
        torch.testing.assert_close(found, whole(pixels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "widths", "message"),
    [
        ("UNet", (8, 8), "only UNETR, SwinUNETR, SegResNet can read levels, and UNet cannot"),
        ("UNETR", (8, 8), "UNETR reads 4 levels, and the encoder has 2; change its `levels`"),
        ("SegResNet", (8,), "SegResNet reads at least 2 levels, and the encoder has 1"),
        ("UNETR", (8, 8, 8, 8), "args or preprocess.size: |gives .* expected 3 maps"),
    ],
)
def test_levels_that_do_not_fit_a_network_are_refused(net: str, widths: Any, message: str) -> None:
    levels = tuple(Level(width, (4, 4)) for width in widths)
    with pytest.raises(UserError, match=message):
        config = config_of("monai", net=net, reads="levels", args={"num_heads": 2} if net == "UNETR" else {})
        component("decoders", "monai").build(config, 8, (4, 4), (1, 32, 32), levels=levels)


# --- any module --------------------------------------------------------------------------------------------


def test_a_module_of_a_listed_package_predicts_masks() -> None:
    permit(["torch"])
    args: Any = {"in_channels": 1, "out_channels": 3, "kernel_size": 3, "padding": 1}
    decoder = build("module", (1, 8, 10), path="torch.nn.Conv2d", args=args)
    torch.manual_seed(0)
    theirs = nn.Conv2d(**args)
    pixels = torch.randn(2, 1, 8, 10)
    assert torch.equal(decoder(see(pixels)), theirs(pixels))


@pytest.mark.parametrize(
    ("path", "args", "error", "message"),
    [
        ("numpy.zeros", {}, RecipeError, r"runs code of 'numpy'; if you trust it, add plugins: \[numpy\]"),
        ("torch", {}, ValueError, "expected PACKAGE.MODULE.NAME"),
        ("torch.nn.Konv2d", {}, RecipeError, "torch.nn.Konv2d cannot be imported"),
        ("torch.nothing.Conv2d", {}, RecipeError, "torch.nothing.Conv2d cannot be imported"),
        ("torch.Size", {}, RecipeError, "gives a Size; expected an nn.Module"),
        ("torch.nn.Identity", {}, ShapeError, r"gives \[1, 8, 10\] for pixels \[1, 8, 10\]; expected 3 maps"),
        (
            "torch.nn.Conv2d",
            {"in_channels": 1, "out_channels": 3, "kernel_size": 3},
            ShapeError,
            r"gives \[3, 6, 8\] for pixels \[1, 8, 10\]; expected 3 maps of the size of the input",
        ),
    ],
)
def test_what_is_no_module_of_masks_is_refused(path: str, args: Any, error: type[Exception], message: str) -> None:
    permit(["torch"])
    with pytest.raises(error, match=message):
        build("module", (1, 8, 10), path=path, args=args)


# --- a pyramid --------------------------------------------------------------------------------------------------


def test_the_pyramid_is_that_of_torchvision() -> None:
    from torchvision.ops import FeaturePyramidNetwork

    levels = (Level(6, (8, 12)), Level(10, (4, 6)), Level(12, (2, 3)))
    torch.manual_seed(0)
    decoder = component("decoders", "fpn").build(config_of("fpn", width=16), 12, (2, 3), (3, 32, 48), levels=levels)
    theirs = FeaturePyramidNetwork([6, 10, 12], 16)
    own = decoder.pyramid.state_dict()
    theirs.load_state_dict({re.sub(r"(blocks\.\d)", r"\1.0", name): value for name, value in own.items()})
    maps = {str(n): torch.randn(2, level.width, *level.grid) for n, level in enumerate(levels)}
    for name, found in decoder.pyramid(maps).items():
        torch.testing.assert_close(found, theirs(maps)[name])


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        (((2, 3), (4, 6)), r"have grids \(2, 3\), \(4, 6\); list them from the finest to the coarsest"),
        (((2, 2, 3), (1, 2, 3)), "levels of 3 axes cannot make a mask of 2 axes"),
    ],
)
def test_levels_that_make_no_pyramid_are_refused(grids: Any, message: str) -> None:
    levels = tuple(Level(8, grid) for grid in grids)
    with pytest.raises(ShapeError, match=message):
        component("decoders", "fpn").build(config_of("fpn"), 8, (2, 3), (3, 32, 48), levels=levels)
