"""Connectors against the stock module they are named after, or their paper's definition."""

from __future__ import annotations

import math

import pytest
import torch

from medvlm.connectors import linear, mlp, resampler
from medvlm.core.config import component, kinds

PATCHES = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))


def test_the_mlp_is_the_projector_of_stock_llava_key_by_key() -> None:
    from transformers import CLIPVisionConfig, LlavaConfig, Qwen2Config
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    stock = LlavaMultiModalProjector(LlavaConfig(vision_config=CLIPVisionConfig(hidden_size=8, num_attention_heads=2), text_config=Qwen2Config(hidden_size=12, num_attention_heads=2)))
    ours = mlp.build(mlp.Config(kind="mlp"), 8, 12, (2, 3))
    ours.load_state_dict(stock.state_dict())
    torch.testing.assert_close(ours(PATCHES), stock(PATCHES), rtol=0, atol=1e-6)


def test_linear_is_one_matrix_per_token() -> None:
    made = linear.build(linear.Config(kind="linear"), 8, 12, (2, 3))
    torch.testing.assert_close(made(PATCHES)[1, 4], made.weight @ PATCHES[1, 4] + made.bias)


@pytest.mark.parametrize("kind", kinds("connectors"))
@pytest.mark.parametrize("grid", [(2, 3), (1, 2, 3), (4, 4)])
def test_the_number_of_tokens_is_known_before_any_weight(kind: str, grid: tuple[int, ...]) -> None:
    module = component("connectors", kind)
    config = module.Config(kind=kind)
    made = module.build(config, 8, 12, grid)
    assert made(torch.randn(2, math.prod(grid), 8)).shape == (2, module.tokens(config, grid), 12)


def test_a_resampler_reads_a_set_the_order_of_patches_does_not_matter() -> None:
    made = resampler.build(resampler.Config(kind="resampler", tokens=4, layers=2, heads=2), 8, 12, (2, 3))
    torch.testing.assert_close(made(PATCHES[:, torch.tensor([5, 0, 3, 1, 4, 2])]), made(PATCHES), rtol=1e-5, atol=1e-6)
    assert (made(PATCHES + 1.0 * torch.randn(3, 6, 8)) - made(PATCHES)).abs().max() > 1e-3


def test_a_resampler_treats_every_image_by_itself() -> None:
    made = resampler.build(resampler.Config(kind="resampler", tokens=4), 8, 12, (2, 3))
    torch.testing.assert_close(made(PATCHES), torch.cat([made(p[None]) for p in PATCHES]), rtol=1e-5, atol=1e-6)
