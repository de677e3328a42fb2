"""The network of LSMS: the sentence changes the mask, its contrastive term by hand, and its terms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from medvlm.core.config import component
from medvlm.core.contracts import Features
from medvlm.core.errors import ShapeError
from medvlm.core.mask_prompts import ASKED, ReadTexts, TextWidth
from medvlm.data.prompts import Prompt, stack_prompts
from medvlm.recipe.load import load

SMALL: dict[str, Any] = {"widths": (4, 8), "depths": (1, 1), "width": 8, "heads": 2}
MODULE: Any = component("decoders", "scale_language")


def read_recipe() -> Any:
    return load("systems/lsms.yaml").recipe.model.decoders["polyp"]


def mark(config: Any, texts: torch.Tensor, lengths: list[int]) -> tuple[dict[str, torch.Tensor], Any]:
    torch.manual_seed(0)
    built = MODULE.build(config, 8, (1, 1), (3, 16, 24), TextWidth(6, 5))
    pixels = torch.randn(1, 3, 16, 24).expand(len(texts), -1, -1, -1)
    flat = pixels.flatten(1)
    is_token = (torch.arange(4) < torch.tensor(lengths)[:, None]).long()
    words = torch.randn(1, 4, 5) + texts[:, None, :5]
    prompts = stack_prompts([Prompt(0, ("text",))] * len(texts))
    read = {ASKED: ReadTexts(texts, words * is_token[..., None], is_token)}
    features = Features(flat[:, None], flat, (1, 1), pixels=pixels)
    return built(features, prompts.__class__(**{**vars(prompts), "read": read})), built


def test_the_sentence_changes_the_mask_and_padding_does_not() -> None:
    config, texts = (
        read_recipe().model_copy(update=SMALL),
        torch.randn(2, 6, generator=torch.Generator().manual_seed(3)),
    )
    found, built = mark(config, texts, [4, 2])
    assert found[""].shape == (2, 1, 16, 24) and not torch.allclose(found[""][0], found[""][1], atol=1e-3)
    torch.stack([each.square().sum() for each in found.values()]).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in built.parameters())
    with pytest.raises(ShapeError, match="multiples of 8 pixels"):
        MODULE.build(config, 8, (1, 1), (3, 16, 20), TextWidth(6, 5))


def test_the_contrastive_term_is_the_cross_entropy_of_products() -> None:
    config = read_recipe().model_copy(update={"contrast": 0.5})
    products = torch.randn(2, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[[[1, 0, 1], [0, 0, -1]]], [[[0, 0, 0], [1, 1, 1]]]])
    found = MODULE.add_up_term(config, "contrast", {"contrast": products}, labels, None)
    expected = torch.zeros((), dtype=torch.float64)
    for own, true in zip(products[:, 0], labels[:, 0], strict=True):
        losses = [-logsigmoid(x if t else -x) for x, t in zip(own.flatten(), true.flatten(), strict=True) if t >= 0]
        expected = expected + 0.5 * torch.stack(losses).mean()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    slopes = [torch.autograd.grad(each, products, retain_graph=True)[0] for each in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("off", [{}, {"words": False}, {"kernels": ()}, {"full_scale": False}, {"contrast": 0.0}])
def test_lsms_is_another_without_each_of_its_terms(off: dict[str, Any]) -> None:
    whole = read_recipe().model_copy(update=SMALL)
    assert whole.words and whole.full_scale and whole.contrast and len(whole.kernels) == 3
    texts = torch.ones(1, 6)
    labels = (torch.arange(16 * 24).view(1, 1, 16, 24) % 3 == 0).long()

    def learn(config: Any) -> float:
        found, _ = mark(config, texts, [4])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(found[""], labels.float())
        terms = [MODULE.add_up_term(config, name, found, labels, None) for name in MODULE.list_terms(config)]
        return float((loss + sum(terms)).detach())

    assert (learn(whole) == learn(whole.model_copy(update=off))) == (not off)
