"""A language model whose rows leak, or whose logits we do not know, is refused when it is built."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medvlm.backbones import causal
from medvlm.core.errors import ShapeError
from medvlm.models.compose import build_vlm
from medvlm.models.isolation import check_isolated
from medvlm.models.vlm import VLM
from tests.models.tiny import FAMILIES, IMAGE_ID, Ids, language


def spliced(model: nn.Module) -> VLM:
    return VLM(nn.ModuleDict(), nn.ModuleDict(), model, IMAGE_ID)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_fit_pass(family: str) -> None:
    check_isolated(spliced(language(family)))


def made(model_type: str, **config: Any) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, vocab_size=64, **config)
    ).eval()
    return model


def test_a_model_whose_attention_takes_its_positions_from_the_row_is_refused() -> None:
    """MPT's ALiBi measures distances along the row, so the second text of a row would seem far from its own start."""
    with pytest.raises(
        ShapeError,
        match=r"MptForCausalLM gives other logits for a text that shares its row .*choose another language model",
    ):
        check_isolated(spliced(made("mpt", d_model=16, n_heads=2, n_layers=2)))


def test_a_model_that_cannot_take_the_mask_is_refused_with_its_own_error() -> None:
    with pytest.raises(ShapeError, match=r"BloomForCausalLM cannot read several texts in one row \(ValueError: "):
        check_isolated(spliced(made("bloom", hidden_size=16, n_layer=2, n_head=2)))


MPT = causal.Config(
    kind="causal", config={"model_type": "mpt", "vocab_size": 64, "d_model": 16, "n_heads": 2, "n_layers": 2}
)


def test_it_is_tried_whenever_a_model_is_built_with_weights() -> None:
    with pytest.raises(ShapeError, match="MptForCausalLM"):
        build_vlm({}, MPT, Ids(), "<image>", seed=0)
    with torch.device("meta"):
        build_vlm({}, MPT, Ids(), "<image>", seed=0)  # shapes alone, for a plan: nothing to try


def test_logits_that_are_changed_after_the_head_in_an_unknown_way_are_refused() -> None:
    model = language("qwen2")
    stock = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        out = stock(*args, **kwargs)
        out.logits = 1.5 * out.logits
        return out

    model.forward = scaled  # type: ignore[method-assign]
    with pytest.raises(ShapeError, match=r"off by 3[0-9]\.[0-9]+% of the largest"):
        check_isolated(spliced(model))
