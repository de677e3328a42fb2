"""The recipe of MedViTV2, with a stand-in for its package: what makes its network changes what the encoder gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from medvlm.core import config as core_config
from medvlm.core.config import component
from medvlm.recipe.load import load

SIDE = 64


@pytest.fixture(autouse=True)
def _only_what_the_recipe_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_config, "_PERMITTED", set())


def build(**args: Any) -> Any:
    config = load("systems/medvitv2.yaml").recipe.model.encoders["patch"]
    before = config.preprocess.model_copy(update={"size": (SIDE, SIDE)})
    changed = config.model_copy(update={"args": {**config.args, **args}, "preprocess": before})
    torch.manual_seed(0)
    return component("encoders", config.kind).build(changed).eval()


def look(encoder: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Its tokens, and the gradient of one of them by the pixels."""
    torch.manual_seed(1)
    pixels = torch.randn(2, 3, SIDE, SIDE, requires_grad=True)
    tokens = encoder(pixels).patches
    (slope,) = torch.autograd.grad((tokens * torch.randn_like(tokens)).sum(), pixels)
    return tokens.detach(), slope


def silence_kan(tower: Any) -> None:
    for block in tower.features:
        if hasattr(block, "kan"):
            torch.nn.init.zeros_(block.kan.layers[-1].spline_linear.weight)


def silence_neighbours(tower: Any) -> None:
    for block in tower.features:
        if hasattr(block, "attn"):
            torch.nn.init.zeros_(block.attn.proj.weight)
            torch.nn.init.zeros_(block.attn.proj.bias)


def test_the_maps_before_the_head_are_its_tokens() -> None:
    encoder = build()
    with torch.no_grad():
        pixels = torch.randn(2, 3, SIDE, SIDE)
        maps = encoder.tower.norm(encoder.tower.features(encoder.tower.stem(pixels)))
        found = encoder(pixels)
        torch.testing.assert_close(found.patches, maps.flatten(2).transpose(1, 2))
        torch.testing.assert_close(encoder.tower.proj_head(found.pooled), encoder.tower(pixels))
    assert encoder.grid == (2, 2)


@pytest.mark.parametrize("off", [silence_kan, silence_neighbours])
def test_without_a_kind_of_block_the_encoder_gives_something_else(off: Callable[[Any], None]) -> None:
    whole, less = build(), build()
    off(less.tower)
    (tokens, slope), (other, slope_without) = look(whole), look(less)
    assert torch.equal(tokens, look(build())[0]), "it is not only the block that differs"
    assert (tokens - other).norm() > 1e-3 * tokens.norm() and (slope - slope_without).norm() > 1e-3 * slope.norm()


def test_the_share_of_channels_that_attend_to_the_whole_image_is_set_by_the_recipe() -> None:
    whole, less = build(), build(mix_block_ratio=0.25)
    attending = [block.e_mhsa.embed_dim for block in whole.tower.features if hasattr(block, "e_mhsa")]
    fewer = [block.e_mhsa.embed_dim for block in less.tower.features if hasattr(block, "e_mhsa")]
    assert all(a > b for a, b in zip(attending, fewer, strict=True))
    assert not torch.allclose(look(whole)[0], look(less)[0], atol=1e-3)
