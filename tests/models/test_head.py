"""Logits that are read in chunks give the values and gradients of all logits at once, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.models import head
from medvlm.models.head import compute_logits, read_head
from medvlm.objectives.next_token import entropy, log_probability, read_losses
from medvlm.preflight.ledger import Ledger
from tests.models.tiny import FAMILIES, VOCABULARY, language

NUM_LABELS = 23
WEIGHTS_L = torch.linspace(-2, 3, NUM_LABELS)
"""Of the tokens in the loss. As advantages do, they differ in sign."""


def model_of(family: str, *, trained: bool) -> Any:
    torch.manual_seed(0)
    model: Any = language(family)
    model.get_output_embeddings().weight.requires_grad_(trained)
    return model


def labels(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    width = model.get_output_embeddings().weight.shape[1]
    hidden_LW = torch.randn(NUM_LABELS, width, generator=generator).requires_grad_()
    return hidden_LW, torch.randint(VOCABULARY, (NUM_LABELS,), generator=generator)


def read_policy(logits_CV: torch.Tensor, targets_C: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "log_C": log_probability(logits_CV, targets_C, temperature=0.7),
        "entropy_C": entropy(logits_CV, temperature=0.7),
    }


def run(model: Any, read: Callable[..., Any]) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """The values, and the gradients in the hidden states and in the head, if it is trained."""
    hidden_LW, targets_L = labels(model)
    found = read_head(model, hidden_LW, targets_L, read)
    (WEIGHTS_L * next(iter(found.values()))).sum().backward()
    weight = model.get_output_embeddings().weight
    return found, [g for g in (hidden_LW.grad, weight.grad) if g is not None]


@pytest.mark.parametrize("read", [read_losses, read_policy])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_chunks_give_the_values_and_gradients_of_the_whole(
    family: str, trained: bool, read: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, gradients = run(model_of(family, trained=trained), read)
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * VOCABULARY * 5)
    chunks, chunked = run(model_of(family, trained=trained), read)
    assert len(chunked) == len(gradients) == 1 + trained
    for name, value in whole.items():
        torch.testing.assert_close(chunks[name], value, rtol=1e-5, atol=1e-6)
    for one, other in zip(chunked, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_few_labels_are_read_at_once_to_the_last_bit() -> None:
    model = model_of("qwen2", trained=True)
    hidden_LW, targets_L = labels(model)
    found = read_head(model, hidden_LW, targets_L, read_losses)["losses_L"]
    assert torch.equal(found, read_losses(compute_logits(model, hidden_LW), targets_L)["losses_L"])


@pytest.mark.parametrize("trained", [True, False])
def test_no_gradient_is_computed_where_none_is_asked_for(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * VOCABULARY * 5)
    model = model_of("qwen2", trained=trained)
    hidden_LW, targets_L = labels(model)
    with torch.no_grad():
        assert not read_head(model, hidden_LW, targets_L, read_losses)["losses_L"].requires_grad
    frozen = read_head(model, hidden_LW.detach(), targets_L, read_losses)["losses_L"]
    assert frozen.requires_grad == trained


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_does_not_grow_with_labels_times_vocabulary(trained: bool, dtype: torch.dtype) -> None:
    """16,000 labels of 262,144 words are 15.6 GiB in float32. Counted on the meta device, without the gradient of the
    head itself, which autograd adds up in two tensors."""
    vocabulary, width = 262_144, 64
    linear = nn.Linear(width, vocabulary, bias=False, device="meta", dtype=dtype).requires_grad_(trained)
    config = SimpleNamespace(vocab_size=vocabulary)
    config.get_text_config = lambda: config
    model: Any = SimpleNamespace(get_output_embeddings=lambda: linear, config=config)
    hidden_LW = torch.empty(16_000, width, device="meta", dtype=dtype, requires_grad=True)
    ledger = Ledger(linear)
    with ledger:
        ledger.start_section("pass")
        found = read_head(model, hidden_LW, torch.zeros(16_000, dtype=torch.long), read_losses)
        found["losses_L"].sum().backward()
    of_head = 2 * linear.weight.numel() * linear.weight.element_size() if trained else 0
    assert sum(ledger.peaks["pass"].values()) - of_head < 1e9
