"""Encoders that leave patches out, hide them behind a token, and take inputs of other sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from medvlm.core.config import component
from medvlm.core.contracts import Masking
from medvlm.core.errors import ShapeError

FLAT = {"size": [32, 48], "channels": 1, "mean": [0.5], "std": [0.5]}
TIMM = {"kind": "timm", "net": "vit_tiny_patch16_224", "preprocess": FLAT}
ARGS = {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 8}
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL |= {"num_channels": 1, "image_size": 32, "patch_size": 8}
SQUARE = {"size": [32, 32], "channels": 1, "mean": [0.5], "std": [0.5]}
VOLUME = {"size": [8, 16, 24], "channels": 1, "mean": [0.5], "std": [0.5]}
MONAI = {"kind": "monai", "net": "ViT", "patch": [4, 8, 8], "width": 24, "layers": 2, "heads": 2, "preprocess": VOLUME}
ENCODERS: dict[str, dict[str, Any]] = {
    "timm, mean": {**TIMM, "args": ARGS},
    "timm, class": {**TIMM, "args": ARGS, "pool": "class"},
    "timm, registers": {**TIMM, "args": {**ARGS, "reg_tokens": 2, "no_embed_class": True}},
    "monai": MONAI,
    "monai, class": {**MONAI, "class_token": True},
    "primus": {"kind": "primus", "width": 24, "layers": 2, "heads": 2, "patch": [4, 8, 8], "preprocess": VOLUME},
    "state space": {"kind": "ssm", "width": 24, "layers": 2, "patch": [4, 8, 8], "preprocess": VOLUME},
    "vit": {"kind": "transformers", "config": {"model_type": "vit", **SMALL}, "preprocess": SQUARE},
    "dinov2": {"kind": "transformers", "config": {"model_type": "dinov2", **SMALL}, "preprocess": SQUARE},
}


def built(settings: dict[str, Any]) -> Any:
    kind = component("encoders", settings["kind"])
    torch.manual_seed(0)
    encoder = kind.build(kind.Config.model_validate(settings)).eval()
    with torch.no_grad():  # so that positions and class tokens count
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Any:
    return built(ENCODERS[request.param])


def test_with_all_patches_it_gives_what_it_gives_without_masking(encoder: Any) -> None:
    pixels = torch.randn(2, *encoder.input_shape)
    with torch.no_grad():
        plain, whole = encoder(pixels), encoder(pixels, Masking())
    assert encoder.can_mask and whole.grid == plain.grid
    torch.testing.assert_close(whole.patches, plain.patches, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.pooled, plain.pooled, rtol=1e-5, atol=1e-5)


def test_it_sees_only_the_patches_that_are_kept(encoder: Any) -> None:
    """Pixels of the others change nothing; the order of the kept ones is theirs."""
    pixels = torch.randn(2, *encoder.input_shape)
    total = math.prod(encoder.grid)
    kept = torch.stack([torch.randperm(total)[: total // 3].sort().values for _ in range(2)])
    side = tuple(s // g for s, g in zip(encoder.input_shape[1:], encoder.grid, strict=True))
    places = torch.zeros(2, total, dtype=torch.bool).scatter(1, kept, value=True).view(2, 1, *encoder.grid)
    for axis, length in enumerate(side):
        places = places.repeat_interleave(length, 2 + axis)
    other = torch.where(places, pixels, torch.randn_like(pixels))
    with torch.no_grad():
        found = encoder(pixels, Masking(kept_NK=kept))
        torch.testing.assert_close(encoder(other, Masking(kept_NK=kept)).patches, found.patches, rtol=0, atol=1e-5)
        turned = encoder(pixels, Masking(kept_NK=kept.flip(1)))
        assert found.patches.shape == (2, total // 3, encoder.width) and found.grid == (total // 3,)
        assert (
            encoder(pixels).patches.gather(1, kept[..., None].expand_as(found.patches)) - found.patches
        ).abs().max() > 0.01
    torch.testing.assert_close(turned.patches.flip(1), found.patches, rtol=0, atol=1e-5)


def test_a_hidden_patch_is_the_token_in_its_place(encoder: Any) -> None:
    pixels = torch.randn(1, *encoder.input_shape)
    total = math.prod(encoder.grid)
    hidden = torch.zeros(1, total, dtype=torch.bool)
    hidden[0, [0, total - 1]] = True
    token = torch.randn(24, requires_grad=True)
    found = encoder(pixels, Masking(hidden_NT=hidden, token_E=token))
    other = pixels.clone()
    last: Any = (0, 0, *[slice(-4, None)] * len(encoder.grid))  # within the last patch
    other[last] += 5
    again = encoder(other, Masking(hidden_NT=hidden, token_E=token))
    torch.testing.assert_close(again.patches, found.patches, rtol=0, atol=1e-5)
    assert (encoder(other).patches - encoder(pixels).patches).abs().max() > 0.01
    assert (found.patches[0, 0] - found.patches[0, -1]).abs().max() > 0.01, "the positions differ"
    found.patches.sum().backward()
    assert token.grad is not None and token.grad.abs().max() > 0


def test_a_smaller_input_has_a_smaller_grid(encoder: Any) -> None:
    side = tuple(s // g for s, g in zip(encoder.input_shape[1:], encoder.grid, strict=True))
    size = tuple(max(1, n - 1) * s for n, s in zip(encoder.grid, side, strict=True))
    found = encoder(torch.randn(1, 1, *size), Masking())
    assert found.grid == tuple(max(1, n - 1) for n in encoder.grid)
    with pytest.raises(ShapeError, match=r"patches of .* do not tile an input of"):
        encoder(torch.randn(1, 1, *(n + 1 for n in size)), Masking())


def test_a_position_of_another_grid_is_between_those_around_it() -> None:
    """A linear field stays linear, but for the edges."""
    encoder = built(MONAI)
    field = torch.arange(12.0).view(1, 2, 2, 3)[..., None].expand(-1, -1, -1, -1, 24).reshape(1, 12, 24)
    from medvlm.encoders._masking import resize_positions

    assert encoder.vit_grid == (2, 2, 3) and resize_positions(field, (2, 2, 3), (2, 2, 3)) is field
    wider = resize_positions(field, (2, 2, 3), (2, 2, 6)).view(2, 2, 6, 24)
    torch.testing.assert_close(wider[0, 0, :, 0], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2]))


@pytest.mark.parametrize("settings", [
    {"kind": "timm", "net": "resnet10t", "args": {"channels": [8, 8, 8, 8], "stem_width": 8}, "preprocess": FLAT},
    {**MONAI, "net": "SegResNet", "patch": None, "args": {"init_filters": 8}},
    {"kind": "transformers", "config": {"model_type": "siglip_vision_model", **SMALL}, "preprocess": SQUARE},
])  # fmt: skip
def test_other_networks_say_that_they_cannot_be_masked(settings: dict[str, Any]) -> None:
    kind = component("encoders", settings["kind"])
    assert not kind.build(kind.Config.model_validate(settings)).can_mask


def test_a_class_token_that_is_not_there_is_refused() -> None:
    with pytest.raises(ShapeError, match="pool: class needs a class token, and vit_tiny_patch16_224 gives none"):
        built({**TIMM, "args": {**ARGS, "class_token": False, "global_pool": "avg"}, "pool": "class"})
