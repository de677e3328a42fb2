"""Blocks are found by structure, not by name. Recomputing or compiling them changes no gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.blocks import find_blocks
from medvlm.core.errors import RecipeError
from medvlm.encoders import timm
from medvlm.models.parts import matches
from medvlm.train.blocks import compile_blocks, recompute
from tests.models.tiny import FAMILIES, batch_of, document, language, vlm


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_of_every_language_model_are_blocks(family: str) -> None:
    found = find_blocks(language(family))
    assert len(found) == 2 and len({name.rpartition(".")[0] for name, _ in found}) == 1
    assert {name.rpartition(".")[2] for name, _ in found} == {"0", "1"}


def test_the_layers_of_towers_are_blocks_and_those_of_a_connector_too() -> None:
    names = [name for name, _ in find_blocks(vlm())]
    assert [n for n in names if n.startswith("encoders.film")] == [
        "encoders.film.tower.encoder.layers.0",
        "encoders.film.tower.encoder.layers.1",
    ]
    assert any(n.startswith("encoders.volume") for n in names) and any(n.startswith("connectors.volume") for n in names)
    assert not any(n.startswith("connectors.film") for n in names), "an mlp has layers, but none that repeat"


@pytest.mark.parametrize(("net", "blocks_of_it"), [("vit_tiny_patch16_224", 12), ("convnext_atto", 4), ("resnet18", 2)])
def test_towers_of_timm_are_taken_apart(net: str, blocks_of_it: int) -> None:
    """The outermost lists: ConvNeXt's four stages, and of a ResNet, whose stages stand beside each other, the blocks of
    each."""
    found = find_blocks(timm.build(timm.Config(kind="timm", net=net, preprocess={"size": (224, 224)})))
    assert len(found) >= blocks_of_it


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch = batch_of(
        [document(generator, ["film", "volume"], 4, [(5, 0), (3, 1)]), document(generator, ["film"], 6, [(4, 0)])]
    )
    model.zero_grad()
    model(batch)["logits_LV"].square().sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_computing_again_keeps_less_and_changes_no_gradient() -> None:
    model = vlm()
    expected, kept = gradients(model), saved_numbers(model)
    recompute(model, ("language", "encoders.film"), matches)
    found = gradients(model)
    assert all(torch.equal(found[n], g) for n, g in expected.items()) and found.keys() == expected.keys()
    assert saved_numbers(model) < 0.7 * kept


def saved_numbers(model: nn.Module) -> int:
    """The number of elements that the forward pass keeps for the backward pass."""
    seen: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        seen[x.data_ptr()] = x.numel()
        return x

    generator = torch.Generator().manual_seed(0)
    batch = batch_of([document(generator, ["film", "volume"], 4, [(5, 0), (3, 1)])])
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = model(batch)["logits_LV"].square().sum()
    own = {p.data_ptr() for p in model.parameters()}
    assert loss.requires_grad
    return sum(n for where, n in seen.items() if where not in own)


def test_without_gradients_nothing_is_computed_twice() -> None:
    model, calls = vlm(), []
    _, block = find_blocks(model.language)[0]
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    recompute(model, ("language",), matches)
    with torch.no_grad():
        gradients_free: Any = model.language(input_ids=torch.ones(1, 3, dtype=torch.long))
    assert calls == [1] and gradients_free.logits.isfinite().all()


def test_a_module_without_blocks_is_refused_and_one_that_the_stage_lacks_is_not() -> None:
    with pytest.raises(
        RecipeError,
        match=r"engine.recompute: 'connectors.film' has no repeated blocks \(in this model: connectors.volume",
    ):
        recompute(vlm(), ("connectors.film",), matches)
    recompute(vlm(), ("text",), matches)


@pytest.mark.slow
def test_compiled_blocks_give_the_same_gradients() -> None:
    model = vlm()
    expected = gradients(model)
    compile_blocks(model, ("language",), matches)
    recompute(model, ("language",), matches)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].abs().max()) + 1e-7
        )
