"""The rows of new tokens are learnt; every other row stays what it was, bit by bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medvlm.core.errors import RecipeError
from medvlm.core.lora_config import Lora
from medvlm.core.stage_config import Optim
from medvlm.models import lora, new_rows
from medvlm.models.parts import evaluating, matches, set_trained
from medvlm.models.restore import load_weights
from medvlm.models.vlm import VLM
from medvlm.objectives.next_token import token_losses
from medvlm.train.optim import make_optimizer
from tests.models.test_vlm import documents
from tests.models.tiny import batch_of, vlm

NEW = (7, 40)
ROWS = Lora(targets=(), tokens=True)


def model_of(family: str, **changes: Any) -> VLM:
    model = vlm(family)
    model.new_token_ids = NEW
    return model


def batch() -> Any:
    made = documents()
    for number, document in enumerate(made):
        document.prefix[-1] = NEW[number % 2]  # both are read, and both are answers
        document.branches[0][0][-1] = NEW[(number + 1) % 2]
    return batch_of(made)


def tables(model: VLM) -> list[torch.Tensor]:
    language: Any = model.language
    return [language.get_input_embeddings().weight, language.get_output_embeddings().weight]


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gemma2"])  # untied, tied, tied with embeddings that are scaled
def test_only_the_new_rows_move_also_under_weight_decay_and_fold_in(family: str) -> None:
    model, seen = model_of(family), batch()
    before = [t.detach().clone() for t in tables(model)]
    with evaluating(model):
        plain = model(seen)["logits_LV"]
    lora.attach(model, ROWS, seed=0)
    with evaluating(model):
        torch.testing.assert_close(
            model(seen)["logits_LV"], plain, rtol=1e-5, atol=1e-6
        )  # putting them on changes nothing; two rows are summed in another order than 64
    set_trained(model, ("lora",), "words")
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == (2 if family == "qwen2" else 1) and all(n.endswith("lora_rows") for n in trained)
    optimizer = make_optimizer(model, Optim(lr=0.05, weight_decay=0.5), matches, "words")
    for _ in range(3):
        optimizer.zero_grad()
        token_losses(model(seen)["logits_LV"], seen.targets_L).sum().backward()
        optimizer.step()
    with evaluating(model):
        learnt = model(seen)["logits_LV"]
    saved = {n: t.clone() for n, t in model.state_dict().items()}
    lora.merge(model)
    with evaluating(model):
        torch.testing.assert_close(model(seen)["logits_LV"], learnt, rtol=1e-5, atol=1e-6)
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in vlm(family).named_parameters()}
    for was, now in zip(before, tables(model), strict=True):
        moved = [i for i in range(len(was)) if not torch.equal(was[i], now[i])]
        assert moved == list(NEW)
    again = model_of(family)
    load_weights(again, saved, ROWS, "words/step-3")
    with evaluating(again):
        torch.testing.assert_close(again(seen)["logits_LV"], learnt, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gemma2"])
def test_logits_and_gradients_are_those_of_peft(family: str) -> None:
    """peft's trainable_token_indices computes the same, with a copy of the whole table in every step; docs/log.md says
    what keeps us from it."""
    from peft import LoraConfig, inject_adapter_in_model

    ours, theirs = (vlm(family).language for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    is_tied = ours.get_output_embeddings().weight is ours.get_input_embeddings().weight
    places = {"wte" if family == "gpt2" else "embed_tokens": list(NEW)} | ({} if is_tied else {"lm_head": list(NEW)})
    layer = "c_attn" if family == "gpt2" else "q_proj"
    new_rows.attach(ours, NEW)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=[layer], trainable_token_indices=places), theirs)
    ids = torch.tensor([[1, NEW[0], 5, NEW[1], 9, NEW[0]]])
    logits = [model(input_ids=ids, labels=ids) for model in (ours.eval(), theirs.eval())]
    torch.testing.assert_close(logits[0].logits, logits[1].logits, rtol=1e-5, atol=1e-6)
    for each in logits:
        each.loss.backward()
    rows = [p.grad for n, p in ours.named_parameters() if n.endswith("lora_rows")]
    deltas = [p.grad for n, p in theirs.named_parameters() if "trainable_tokens_delta" in n]
    torch.testing.assert_close(rows, deltas, rtol=1e-4, atol=1e-6)


def test_a_head_with_a_bias_keeps_it() -> None:
    """peft's layer for trained rows leaves it out."""
    from transformers import PhiConfig, PhiForCausalLM

    language = PhiForCausalLM(
        PhiConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    ).eval()
    torch.nn.init.normal_(language.lm_head.bias)
    ids = torch.tensor([[1, NEW[0], 5, NEW[1]]])
    before = language(input_ids=ids).logits
    new_rows.attach(language, NEW)
    torch.testing.assert_close(language(input_ids=ids).logits, before, rtol=1e-5, atol=1e-6)


def test_rows_are_learnt_beside_adapters() -> None:
    model, seen = model_of("qwen2"), batch()
    lora.attach(model, Lora(rank=2, tokens=True), seed=0)
    set_trained(model, ("lora",), "words")
    token_losses(model(seen)["logits_LV"], seen.targets_L).sum().backward()
    grown = {
        n.rpartition(".lora_")[2].split(".")[0]
        for n, p in model.named_parameters()
        if p.grad is not None and p.grad.any()
    }
    assert grown == {"rows", "B"}, "A follows once B has moved"


def test_a_model_without_new_tokens_and_a_recipe_that_adapts_nothing_are_refused() -> None:
    with pytest.raises(
        RecipeError,
        match=r"lora.tokens: model.language adds no tokens whose rows could be trained; list them in special_tokens",
    ):
        lora.attach(vlm(), ROWS, seed=0)
    with pytest.raises(ValueError, match="targets is empty, so nothing is adapted"):
        Lora(targets=())
