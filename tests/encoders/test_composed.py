"""2D networks applied to slices, films and tiles, inflated to 3D, and fused, compared with the 2D network itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from medvlm.core.config import component
from medvlm.core.errors import ShapeError
from medvlm.core.problems import problems_of
from medvlm.encoders import fused, inflated, monai, slices
from medvlm.models.parts import tokens_of

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT: dict[str, Any] = {
    "kind": "transformers",
    "config": {"model_type": "vit", **SMALL, "image_size": 16, "patch_size": 8},
}
GREY = {"channels": 1, "mean": [0.5], "std": [0.5]}
RESNET: dict[str, Any] = {
    "kind": "inflated",
    "net": "resnet10t",
    "args": {"channels": (8, 8, 16, 16), "stem_width": 8},
    "preprocess": {"size": (16, 32, 64), **GREY},
}


def build_encoder(settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    kind = component("encoders", settings["kind"])
    return kind.build(kind.Config.model_validate(settings)).eval()


# --- slices ------------------------------------------------------------------------------------------


def test_each_slice_gives_the_features_of_the_2d_encoder() -> None:
    pixels = torch.randn(2, 3, 4, 16, 16)
    outs = {
        out: build_encoder({"kind": "slices", "encoder": VIT, "slices": 4, "out": out})
        for out in ("patches", "pooled", "mean")
    }
    each = [[outs["patches"].each(pixels[n, :, d][None]) for d in range(4)] for n in range(2)]
    patches = torch.stack([torch.cat([f.patches for f in row]) for row in each])  # [N, D, T, E]
    pooled = torch.stack([torch.cat([f.pooled for f in row]) for row in each])
    torch.testing.assert_close(outs["patches"](pixels).patches, patches.flatten(1, 2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outs["pooled"](pixels).patches, pooled, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outs["mean"](pixels).patches, patches.mean(1), rtol=1e-5, atol=1e-6)
    assert [outs[o].grid for o in outs] == [(4, 2, 2), (4,), (2, 2)]
    for encoder in outs.values():
        torch.testing.assert_close(encoder(pixels).pooled, pooled.mean(1), rtol=1e-5, atol=1e-6)


def test_chunking_changes_neither_features_nor_gradients() -> None:
    pixels = torch.randn(1, 3, 5, 16, 16)
    whole, parts = (build_encoder({"kind": "slices", "encoder": VIT, "slices": 5, "chunk": chunk}) for chunk in (0, 2))
    for encoder in (whole, parts):
        encoder(pixels).patches.square().sum().backward()
    torch.testing.assert_close(parts(pixels).patches, whole(pixels).patches, rtol=1e-5, atol=1e-6)
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_preprocess_of_the_volume_follows_from_that_of_a_slice() -> None:
    vit = {**VIT, "preprocess": {"size": (16, 16), "fit": "crop", "mean": (0.1, 0.2, 0.3)}}
    volume = slices.preprocess(slices.Config(kind="slices", encoder=vit, slices=8))
    assert (volume.size, volume.fit, volume.mean, volume.shape) == (
        (8, 16, 16),
        "squash",
        (0.1, 0.2, 0.3),
        (3, 8, 16, 16),
    )
    in_mm = slices.preprocess(
        slices.Config(
            kind="slices",
            encoder={**VIT, "preprocess": {"size": (16, 16), "fit": "crop", "spacing_mm": (2, 2)}},
            slices=8,
            slice_mm=5,
        )
    )
    assert (in_mm.spacing_mm, in_mm.fit) == ((5, 2, 2), "crop")
    films = slices.preprocess(slices.Config(kind="slices", encoder=vit, stack=2))
    assert (films.size, films.fit, films.stack, films.shape) == ((16, 16), "crop", 2, (3, 2, 16, 16))
    assert slices.preprocess(slices.Config(kind="slices", encoder=vit, tiles=(2, 2))).shape == (3, 5, 16, 16)


# --- inflated ----------------------------------------------------------------------------------------


def test_an_inflated_network_starts_with_the_2d_features_for_identical_slices() -> None:
    import timm

    encoder = build_encoder(RESNET)
    torch.manual_seed(0)
    flat = timm.create_model("resnet10t", num_classes=0, in_chans=1, **RESNET["args"]).eval()
    film = torch.randn(2, 1, 32, 64)
    expected = flat.forward_features(film)
    seen = encoder(film[:, :, None].expand(-1, -1, 16, -1, -1))
    assert encoder.grid == (1, 1, 2)
    torch.testing.assert_close(
        seen.patches.transpose(1, 2).unflatten(2, (1, 1, 2)), expected[:, :, None], rtol=1e-4, atol=1e-5
    )
    kernel = encoder.tower.layer1[0].conv1.weight
    assert kernel.shape[2] == 3 and not kernel[:, :, [0, 2]].any() and kernel.requires_grad


def test_without_pooling_over_depth_only_the_centre_slice_matters() -> None:
    """A kernel that is zero off its centre sees one slice, so every slice of any volume gives the 2D network's
    response."""
    flat = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)
    ).eval()
    volume = torch.randn(1, 1, 6, 8, 8)
    expected = torch.stack([flat(volume[:, :, d]) for d in range(6)], 2)
    torch.testing.assert_close(inflated.inflate(flat, 3, "net").eval()(volume), expected, rtol=1e-4, atol=1e-5)


def test_depth_is_halved_like_height_and_width_except_in_the_stem() -> None:
    """Merlin's ResNet turns 160 x 224 x 224 voxels into 10 x 7 x 7 tokens."""
    with torch.device("meta"):
        config = inflated.Config(kind="inflated", net="resnet152", preprocess={"size": (160, 224, 224)})
        encoder = inflated.build(config)
    assert (encoder.grid, encoder.width) == ((10, 7, 7), 2048)


@pytest.mark.parametrize(
    "axes", [("head", "right", "front"), ("feet", "back", "left"), ("left", "front", "head"), ("back", "right", "feet")]
)
def test_a_network_of_other_axes_gives_the_features_of_the_volume_turned_to_them(axes: Any) -> None:
    """Turned by hand: an axis is reversed where the network runs against that of medvlm."""
    own = {"head": 0, "feet": 0, "back": 1, "front": 1, "left": 2, "right": 2}
    size = (32, 64, 96)
    torch.manual_seed(0)
    ours = build_encoder({**RESNET, "axes": axes, "preprocess": {"size": size, **GREY}})
    volume = torch.randn(1, 1, *size)
    turned = volume.permute(0, 1, *(2 + own[axis] for axis in axes))
    turned = turned.flip([2 + n for n, axis in enumerate(axes) if axis in ("feet", "front", "right")])
    with torch.no_grad():
        found = ours(volume)
        expected = ours.tower.forward_features(turned)
    grid = [found.grid[own[axis]] for axis in axes]
    assert grid == [*expected.shape[2:]]
    tokens = found.patches.reshape(1, *found.grid, -1)
    for place in ((0, 0, 0), (0, 0, 1), (0, 1, 0)):
        there = [
            grid[n] - 1 - place[own[axis]] if axis in ("feet", "front", "right") else place[own[axis]]
            for n, axis in enumerate(axes)
        ]
        torch.testing.assert_close(tokens[0][place], expected[0, :, there[0], there[1], there[2]])


@pytest.mark.parametrize("axes", [("head", "feet", "left"), ("head", "left", "right"), ("back", "front", "head")])
def test_axes_that_name_one_axis_twice_are_refused(axes: Any) -> None:
    with pytest.raises(ValueError, match="names an axis of the patient twice"):
        inflated.Config(kind="inflated", net="resnet10t", axes=axes, preprocess={"size": (16, 32, 32)})


def test_two_d_weights_are_inflated_and_3d_weights_are_read_unchanged(
    tmp_path: Any,
) -> None:
    import timm

    torch.manual_seed(3)
    flat = timm.create_model("resnet10t", num_classes=0, in_chans=1, **RESNET["args"])
    save_file(flat.state_dict(), tmp_path / "2d.safetensors")
    kernel = build_encoder({**RESNET, "weights": str(tmp_path / "2d.safetensors")}).tower.layer1[0].conv1.weight
    assert torch.equal(kernel[:, :, 1], flat.layer1[0].conv1.weight) and not kernel[:, :, [0, 2]].any()
    source = build_encoder(RESNET)
    with torch.no_grad():
        source.tower.layer1[0].conv1.weight.normal_()  # as after training: no longer zero off its centre
    save_file(
        {**{f"image.{n}": t for n, t in source.tower.state_dict().items()}, "text.x": torch.zeros(1)},
        tmp_path / "3d.safetensors",
    )
    again = build_encoder({**RESNET, "weights": str(tmp_path / "3d.safetensors"), "prefix": "image."})
    volume = torch.randn(1, *source.input_shape)
    assert torch.equal(again(volume).patches, source(volume).patches)


def test_networks_that_are_not_plain_cnns_are_refused() -> None:
    with pytest.raises(
        ShapeError, match="convnext_atto has a LayerNorm2d, which cannot be inflated; choose a plain CNN"
    ):
        build_encoder({**RESNET, "net": "convnext_atto", "args": {}})


# --- fused -------------------------------------------------------------------------------------------


def test_each_fused_encoder_gets_pixels_of_its_own_size_and_mean() -> None:
    second = {
        **VIT,
        "config": {**VIT["config"], "image_size": 32},
        "preprocess": {"size": (32, 32), "mean": (0.2, 0.3, 0.4), "std": (0.1, 0.2, 0.5)},
    }
    encoder = build_encoder({"kind": "fused", "encoders": (VIT, second)})
    film = torch.rand(2, 3, 16, 16)
    mean, std = (torch.tensor(second["preprocess"][k]).view(3, 1, 1) for k in ("mean", "std"))
    resized = nn.functional.interpolate(film, size=(32, 32), mode="bicubic", align_corners=False)
    of_first, of_second = encoder.towers[0]((film - 0.5) / 0.5), encoder.towers[1]((resized - mean) / std)
    features = encoder((film - 0.5) / 0.5)
    maps = of_second.patches.transpose(1, 2).unflatten(2, (4, 4))
    smaller = nn.functional.interpolate(maps, size=(2, 2), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(features.patches, torch.cat([of_first.patches, smaller], -1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        features.pooled, torch.cat([of_first.pooled, of_second.pooled], -1), rtol=1e-4, atol=1e-5
    )


def test_joining_encoders_of_different_widths_in_a_sequence_is_refused() -> None:
    with pytest.raises(
        ShapeError, match="have widths 16 and 8, but all tokens of a sequence need the same width; use join: channels"
    ):
        build_encoder(
            {
                "kind": "fused",
                "join": "sequence",
                "encoders": (VIT, {**VIT, "config": {**VIT["config"], "hidden_size": 8}}),
            }
        )


# --- settings and weights ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "slices", "encoder": VIT}, "give one of `slices`"),
        ({"kind": "slices", "encoder": VIT, "slices": 4, "stack": 2}, "give one of `slices`"),
        (
            {"kind": "slices", "encoder": {**VIT, "connector": {"kind": "mlp"}}, "slices": 4},
            "connector and serves apply to the volume as a whole",
        ),
        ({"kind": "slices", "encoder": VIT, "stack": 2, "slice_mm": 3}, "slice_mm only applies to `slices`"),
        ({"kind": "fused", "encoders": (VIT,)}, "at least 2 items|too_short"),
        ({**RESNET, "kernel": 2}, "a kernel of 2 slices has no centre slice"),
        ({**RESNET, "preprocess": {"size": (16, 16)}}, r"an inflated network needs \[depth, height, width\]"),
        (
            {"kind": "monai", "patch_mm": (5, 8, 8), "preprocess": {"size": (4, 8, 8), **GREY}},
            "patch_mm needs preprocess.spacing_mm",
        ),
        (
            {
                "kind": "monai",
                "patch_mm": (5, 7, 8),
                "preprocess": {"size": (4, 8, 8), "spacing_mm": (2.5, 2, 2), "fit": "crop", **GREY},
            },
            r"is not a multiple of preprocess.spacing_mm \[2.5, 2.0, 2.0\]; the nearest is \[5.0, 8.0, 8.0\]",
        ),
        (
            {"kind": "monai", "net": "SwinUNETR", "preprocess": {"size": (16, 32, 32), **GREY}},
            "each side must be a multiple of 32",
        ),
        (
            {"kind": "monai", "net": "ResNet", "patch": (2, 2, 2), "preprocess": {"size": (16, 32, 32), **GREY}},
            "patch and patch_mm are for the ViT",
        ),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        component("encoders", settings["kind"]).Config.model_validate(settings)


def test_slices_accepts_only_2d_encoders() -> None:
    with pytest.raises(ValidationError) as refused:
        slices.Config.model_validate(
            {"kind": "slices", "encoder": {"kind": "slices", "encoder": VIT, "slices": 2}, "slices": 4}
        )
    assert "unknown kind of encoders 'slices' (accepts fused, timm, transformers)" in str(
        next(problems_of(refused.value, slices.Config))
    )


def test_encoder_weights_are_read_from_a_full_segmentation_checkpoint(tmp_path: Any) -> None:
    from monai.networks.nets import SegResNet, SwinUNETR

    torch.manual_seed(1)
    swin = SwinUNETR(
        in_channels=1, out_channels=3, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=2
    )
    save_file(swin.state_dict(), tmp_path / "swin.safetensors")
    settings = {
        "kind": "monai",
        "net": "SwinUNETR",
        "args": {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 2},
        "preprocess": {"size": (32, 32, 32), **GREY},
    }
    ours = build_encoder({**settings, "weights": str(tmp_path / "swin.safetensors"), "prefix": "swinViT."})
    pixels = torch.randn(1, 1, 32, 32, 32)
    assert torch.equal(ours(pixels).patches[0, 0], swin.eval().swinViT(pixels)[-1].flatten())
    seg = SegResNet(in_channels=1)
    save_file(seg.state_dict(), tmp_path / "seg.safetensors")
    settings = {
        "kind": "monai",
        "net": "SegResNet",
        "preprocess": {"size": (16, 16, 16), **GREY},
        "weights": str(tmp_path / "seg.safetensors"),
    }
    ours = build_encoder({**settings, "allow_unexpected": ["up_layers", "up_samples", "conv_final"]})
    pixels = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(ours(pixels).patches, seg.eval().encode(pixels)[0].flatten(2).transpose(1, 2))


def test_a_standalone_config_has_no_ids_or_paths(tmp_path: Any) -> None:
    from transformers import ViTConfig, ViTModel

    ViTModel(ViTConfig(**SMALL, image_size=16, patch_size=8)).save_pretrained(tmp_path)
    vit = {"kind": "transformers", "model": str(tmp_path), "preprocess": {"size": (16, 16)}}
    config = slices.Config(kind="slices", encoder={"kind": "fused", "encoders": (vit, VIT)}, slices=2)
    alone = slices.standalone(config, slices.build(config))
    assert str(tmp_path) not in str(alone.model_dump())
    assert slices.build(alone).state_dict().keys() == slices.build(config).state_dict().keys()


def test_tokens_of_composed_encoders_are_known_from_their_settings() -> None:
    pair = slices.Config(kind="slices", encoder=VIT, stack=2, connector={"kind": "temporal", "layers": 1, "heads": 2})
    tiled = slices.Config(kind="slices", encoder=VIT, tiles=(2, 2), connector={"kind": "global_query", "heads": 2})
    two = fused.Config(kind="fused", encoders=(VIT, VIT), join="sequence", connector={"kind": "mlp"})
    swin = monai.Config(
        kind="monai",
        net="SwinUNETR",
        preprocess={"size": (64, 64, 96), **GREY},
        connector={"kind": "pool3d", "to": (1, 2, 2)},
    )
    assert tokens_of({"pair": pair, "tiled": tiled, "two": two, "swin": swin}) == {
        "pair": 4,
        "tiled": 4,
        "two": 8,
        "swin": 4,
    }
