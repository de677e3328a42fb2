"""Connectors compared with the stock module they are named after, or with the definition in their paper."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.connectors import linear, mlp, pixel_shuffle, pool2d, pool3d
from medvlm.core.config import component, kinds
from medvlm.core.errors import CheckpointError, ShapeError

PATCHES = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))
SMALL: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {},
    "pixel_shuffle": {},
    "pool2d": {"to": (2, 3)},
    "pool3d": {"to": (2, 2, 3)},
    "resampler": {"tokens": 5, "layers": 1, "heads": 2, "positions": True},
    "perceiver": {"tokens": 5, "layers": 1, "heads": 2, "head_width": 3},
    "qformer": {"tokens": 5, "width": 16, "layers": 2, "heads": 2, "positions": True},
    "global_query": {"layers": 1, "heads": 2},
    "temporal": {"layers": 2, "heads": 2},
}
GRIDS = {
    "linear": (2, 3),
    "mlp": (1, 2, 3),
    "pixel_shuffle": (3, 4, 6),
    "pool2d": (3, 4, 4),
    "pool3d": (4, 4, 3),
    "resampler": (2, 3),
    "perceiver": (2, 2, 3),
    "qformer": (2, 2, 3),
    "global_query": (3, 2, 3),
    "temporal": (2, 2, 3),
}


def make_connector(
    kind: str, grid: tuple[int, ...] | None = None, in_width: int = 8, out_width: int = 12, **settings: Any
) -> nn.Module:
    module = component("connectors", kind)
    config = module.Config(kind=kind, **{**SMALL[kind], **settings})
    torch.manual_seed(0)
    connector: nn.Module = module.build(config, in_width, out_width, grid or GRIDS[kind]).eval()
    return connector


def test_every_connector_kind_is_tested_here() -> None:
    assert set(SMALL) == set(GRIDS) == set(kinds("connectors"))


@pytest.mark.parametrize("kind", kinds("connectors"))
def test_tokens_agrees_with_the_output_and_images_do_not_affect_each_other(kind: str) -> None:
    grid, module = GRIDS[kind], component("connectors", kind)
    connector, patches = make_connector(kind), torch.randn(2, math.prod(grid), 8)
    out = connector(patches)
    assert out.shape == (2, module.tokens(module.Config(kind=kind, **SMALL[kind]), grid, 8), 12)
    torch.testing.assert_close(out, torch.cat([connector(p[None]) for p in patches]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", kinds("connectors"))
def test_every_parameter_of_a_connector_is_used(kind: str) -> None:
    connector = make_connector(kind).train()
    connector(torch.randn(2, math.prod(GRIDS[kind]), 8)).square().sum().backward()
    # A bias of the keys adds the same number to all scores of a query, which softmax cancels.
    unused = [
        n
        for n, p in connector.named_parameters()
        if (p.grad is None or not p.grad.any()) and not n.endswith(("in_proj_bias", "bias_k", "key.bias"))
    ]
    assert not unused


def test_mlp_has_the_keys_and_output_of_stock_llava() -> None:
    from transformers import CLIPVisionConfig, LlavaConfig, Qwen2Config
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    stock = LlavaMultiModalProjector(
        LlavaConfig(
            vision_config=CLIPVisionConfig(hidden_size=8, num_attention_heads=2),
            text_config=Qwen2Config(hidden_size=12, num_attention_heads=2),
        )
    )
    ours = mlp.build(mlp.Config(kind="mlp"), 8, 12, (2, 3))
    ours.load_state_dict(stock.state_dict())
    torch.testing.assert_close(ours(PATCHES), stock(PATCHES), rtol=0, atol=1e-6)


def test_linear_applies_one_matrix_to_every_token() -> None:
    ours = linear.build(linear.Config(kind="linear"), 8, 12, (2, 3))
    torch.testing.assert_close(ours(PATCHES)[1, 4], ours.weight @ PATCHES[1, 4] + ours.bias)


# --- fewer tokens --------------------------------------------------------------------------------------


def test_pixel_shuffle_has_the_keys_and_output_of_stock_internvl() -> None:
    from transformers import InternVLConfig, InternVLModel
    from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector

    stock = InternVLMultiModalProjector(
        InternVLConfig(
            vision_config={"hidden_size": 8, "num_attention_heads": 2},
            text_config={"model_type": "qwen2", "hidden_size": 12},
        )
    )
    ours = make_connector("pixel_shuffle", (4, 4))
    ours.load_state_dict(stock.state_dict())
    patches = torch.randn(2, 16, 8)
    no_model: Any = SimpleNamespace()
    shuffled: Any = InternVLModel.pixel_shuffle(no_model, patches.reshape(2, 4, 4, 8), 0.5)
    torch.testing.assert_close(ours(patches), stock(shuffled.reshape(2, 4, 32)), rtol=0, atol=1e-6)


def test_pixel_shuffle_with_one_layer_has_the_keys_and_output_of_stock_idefics3() -> None:
    from transformers import Idefics3Config
    from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

    stock = Idefics3Connector(
        Idefics3Config(
            vision_config={"hidden_size": 8, "num_attention_heads": 2},
            text_config={"model_type": "llama", "hidden_size": 12, "num_attention_heads": 2},
            scale_factor=2,
        )
    )
    ours = make_connector("pixel_shuffle", (4, 4), layers=1)
    ours.load_state_dict({n.removeprefix("modality_projection."): t for n, t in stock.state_dict().items()})
    patches = torch.randn(2, 16, 8)
    torch.testing.assert_close(ours(patches), stock(patches), rtol=0, atol=1e-6)


def test_pixel_shuffle_of_a_volume_joins_within_each_slice() -> None:
    patches = torch.randn(1, 3 * 4 * 6, 8)
    by_slice = [pixel_shuffle.shuffle(s, (4, 6), 2) for s in patches.unflatten(1, (3, 24)).unbind(1)]
    assert torch.equal(pixel_shuffle.shuffle(patches, (3, 4, 6), 2), torch.cat(by_slice, 1))


def test_pooling_takes_the_mean_of_each_block_in_row_major_order() -> None:
    patches = torch.randn(2, 2 * 4 * 6, 8)
    for module, to in ((pool2d, (2, 3)), (pool3d, (1, 2, 3))):
        connector = make_connector(module.__name__.rpartition(".")[2], (2, 4, 6), to=to)
        means = patches.reshape(2, 2, 2, 2, 3, 2, 8).mean((3, 5))  # [N, slices, rows, columns, E]
        means = means if module is pool2d else means.mean(1, keepdim=True)
        torch.testing.assert_close(connector(patches), connector.project(means.flatten(1, 3)), rtol=1e-5, atol=1e-6)


# --- queries -------------------------------------------------------------------------------------------


def test_a_resampler_without_positions_ignores_the_order_of_patches() -> None:
    ours = make_connector("resampler", (2, 3), positions=False)
    torch.testing.assert_close(ours(PATCHES[:, torch.tensor([5, 0, 3, 1, 4, 2])]), ours(PATCHES), rtol=1e-5, atol=1e-6)
    assert (ours(PATCHES + 1.0 * torch.randn(3, 6, 8)) - ours(PATCHES)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["resampler", "qformer"])
def test_positions_start_without_effect_and_then_distinguish_patches(kind: str) -> None:
    ours, swapped = make_connector(kind, (2, 3)), PATCHES[:, torch.tensor([5, 0, 3, 1, 4, 2])]
    torch.testing.assert_close(ours(swapped), ours(PATCHES), rtol=1e-5, atol=1e-6)
    for name, parameter in ours.named_parameters():
        if parameter.ndim > 1:  # BERT's initial weights are too small to show an effect
            nn.init.normal_(parameter, std=1.0 if "positions" in name else 0.3)
    assert (ours(swapped) - ours(PATCHES)).abs().max() > 1e-2
    added = ours.positions(torch.zeros(1, 6, 8))[0]
    assert torch.equal(added[4], ours.positions.axes[0][1] + ours.positions.axes[1][1])  # row 1, column 1


def test_pooled_tokens_with_positions_know_their_row_column_and_slice() -> None:
    plain = make_connector("pool2d", (2, 4, 6))
    ours: Any = make_connector("pool2d", (2, 4, 6), positions=True)
    patches = torch.randn(2, 48, 8)
    torch.testing.assert_close(ours(patches), plain(patches))
    for axis in ours.positions.axes:
        nn.init.normal_(axis)
    added = (ours(patches) - plain(patches)).unflatten(1, (2, 2, 3))  # slices, rows, columns
    slices, rows, columns = ours.positions.axes
    torch.testing.assert_close(added[1, 1, 0, 2], slices[1] + rows[0] + columns[2])


def make_blip2() -> Any:
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    return Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config={
                "hidden_size": 8,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            qformer_config={
                "hidden_size": 16,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "encoder_hidden_size": 8,
            },
            text_config={
                "model_type": "opt",
                "hidden_size": 12,
                "word_embed_proj_dim": 12,
                "ffn_dim": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "vocab_size": 64,
            },
            num_query_tokens=5,
        )
    ).eval()


def test_qformer_has_the_keys_and_output_of_stock_blip2(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    stock = make_blip2()
    save_file(
        {n.removeprefix("model."): t.contiguous() for n, t in stock.state_dict().items() if "lm_head" not in n},
        tmp_path / "blip2.safetensors",
    )
    others = ("vision_model.*", "language_model.*")
    ours = make_connector(
        "qformer", (1, 5), positions=False, weights=str(tmp_path / "blip2.safetensors"), allow_unexpected=others
    )
    with pytest.raises(CheckpointError, match="allow_unexpected"):
        make_connector("qformer", (1, 5), positions=False, weights=str(tmp_path / "blip2.safetensors"))
    normed = make_connector(
        "qformer",
        (1, 5),
        positions=False,
        norm=True,
        weights=str(tmp_path / "blip2.safetensors"),
        allow_unexpected=("vision_model.e*", "language_model.*"),
    )
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        seen = stock.get_image_features(pixels)
        patches = (stock.model if hasattr(stock, "model") else stock).vision_model(pixels).last_hidden_state
        inner = (stock.model if hasattr(stock, "model") else stock).vision_model.encoder.layers[-1]
        before: list[Any] = []
        hook = inner.register_forward_hook(lambda *call: before.append(call[-1]))
        stock.get_image_features(pixels)
        hook.remove()
        without_norm = before[0][0] if isinstance(before[0], tuple) else before[0]
        torch.testing.assert_close(normed(without_norm), ours(patches), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            ours(patches), seen.pooler_output if hasattr(seen, "pooler_output") else seen, rtol=1e-5, atol=1e-5
        )


# --- two images, or an image and its tiles ---------------------------------------------------------------


def test_global_query_is_a_bert_without_feed_forward_layers() -> None:
    """Compared with BertLayer's attention blocks of the same weights."""
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertAttention

    ours = make_connector("global_query", (3, 1, 2), layers=1, heads=2)
    patches = torch.randn(2, 6, 8)
    config = BertConfig(hidden_size=8, num_attention_heads=2, is_decoder=False, attn_implementation="eager")
    whole, tiles = patches[:, :2], patches[:, 2:]
    block: Any = ours.blocks[0]

    def bert(
        attention: nn.MultiheadAttention, norm: nn.LayerNorm, queries: torch.Tensor, seen: torch.Tensor
    ) -> torch.Tensor:
        stock = BertAttention(config, is_cross_attention=seen is not queries).eval()
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        names = ("query", "key", "value")
        state = {f"self.{n}.weight": w for n, w in zip(names, weights, strict=True)} | {
            f"self.{n}.bias": b for n, b in zip(names, biases, strict=True)
        }
        state |= {"output.dense.weight": attention.out_proj.weight, "output.dense.bias": attention.out_proj.bias}
        stock.load_state_dict({**state, "output.LayerNorm.weight": norm.weight, "output.LayerNorm.bias": norm.bias})
        out: torch.Tensor = stock(queries, **({} if seen is queries else {"encoder_hidden_states": seen}))[0]
        return out

    queries = nn.functional.layer_norm(whole, (8,), eps=1e-12)
    queries = bert(block.itself, block.norm_itself, queries, queries)
    queries = bert(block.across, block.norm_across, queries, tiles)
    expected = ours.project(nn.functional.layer_norm(queries + whole, (8,), eps=1e-12))
    torch.testing.assert_close(ours(patches), expected, rtol=1e-5, atol=1e-5)


def test_global_query_ignores_the_order_of_tiles_but_not_which_is_the_whole_image() -> None:
    ours, patches = make_connector("global_query", (3, 1, 2)), torch.randn(1, 6, 8)
    torch.testing.assert_close(ours(patches[:, [0, 1, 4, 5, 2, 3]]), ours(patches), rtol=1e-5, atol=1e-6)
    assert (ours(patches[:, [2, 3, 0, 1, 4, 5]]) - ours(patches)).abs().max() > 1e-3


def test_temporal_layers_match_libra() -> None:
    """The layers shrink from 12 to 6 to 3 to 1; each block equals torchvision's with the same weights."""
    from torchvision.ops import SqueezeExcitation

    ours = make_connector("temporal", (2, 2, 3), in_width=12 * 8, layers=12, heads=2)
    assert [tuple(p.shape[:2]) for n, p in ours.LFE.named_parameters() if n.endswith("weight") and ".fc" not in n] == [
        (6, 12),
        (3, 6),
        (1, 3),
    ]
    stock = SqueezeExcitation(12, 6, activation=nn.GELU)
    stock.load_state_dict(ours.LFE[0].state_dict())
    maps = torch.randn(2, 12, 6, 8)
    torch.testing.assert_close(ours.LFE[0](maps), stock(maps), rtol=1e-5, atol=1e-6)


def test_the_bias_is_added_to_the_prior_image_by_its_similarity() -> None:
    """Equal images have a cosine of 1, so the whole bias is added. The result depends on the prior image, and more on
    the current one."""
    ours, half, other = make_connector("temporal", (2, 2, 3)), torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    seen: list[torch.Tensor] = []
    ours.prior_self_attention.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    ours.cur_self_attention.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        ours.LFE_prior_bias.fill_(0.5)
        same = ours(torch.cat([half, half], 1))
    torch.testing.assert_close(seen[1], seen[0] + 0.5)
    of_prior, of_current = ((ours(torch.cat(pair, 1)) - same).abs().max() for pair in ((other, half), (half, other)))
    assert 1e-4 < of_prior < of_current


# --- refused settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "grid", "width", "message"),
    [
        (
            "pixel_shuffle",
            {"factor": 3},
            (4, 4),
            8,
            "factor: 3 does not tile a grid of 4 x 4 tokens; choose one that divides",
        ),
        ("pixel_shuffle", {}, (4,), 8, "does not tile a grid of 4 tokens"),
        ("pool2d", {"to": (5, 2)}, (4, 4), 8, r"to: \[5, 2\] cannot be pooled from a grid of 4 x 4 tokens"),
        ("pool3d", {"to": (1, 2, 2)}, (4, 4), 8, "cannot be pooled from a grid of 4 x 4 tokens"),
        ("resampler", {"heads": 3}, (4, 4), 8, "heads: 3 do not divide the width of 8; choose one of 1, 2, 4, 8"),
        ("qformer", {"width": 16, "heads": 3}, (4, 4), None, "heads: 3 do not divide the width of 16"),
        (
            "global_query",
            {},
            (4, 4),
            24,
            (
                "reads a whole image and its tiles, and the encoder gives a grid of 4 x 4; use encoder kind `slices`"
                " with tiles"
            ),
        ),
        (
            "temporal",
            {"layers": 2, "heads": 2},
            (3, 4, 4),
            8,
            "compares two images, and the encoder gives a grid of 3 x 4 x 4; use encoder kind `slices` with stack: 2",
        ),
        ("temporal", {"layers": 3, "heads": 2}, (2, 4, 4), 8, "layers: 3 do not divide the encoder's width of 8"),
        ("temporal", {"layers": 2, "heads": 3}, (2, 4, 4), 8, "heads: 3 do not divide the width of 4"),
    ],
)
def test_settings_that_cannot_fit_are_refused_before_building(
    kind: str, settings: dict[str, Any], grid: tuple[int, ...], width: int | None, message: str
) -> None:
    module = component("connectors", kind)
    config = module.Config(kind=kind, **settings)
    with pytest.raises(ShapeError, match=message):
        module.tokens(config, grid, width)
    with pytest.raises(ShapeError, match=message):
        module.build(config, width or 8, 12, grid)
