"""Adapters change nothing when they are put on, nothing when they are folded in, and reach only what was asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medvlm.core.contracts import Lora
from medvlm.core.errors import RecipeError
from medvlm.models import lora
from medvlm.models.parts import evaluating, set_modes, set_trained
from medvlm.models.vlm import VLM
from medvlm.objectives.next_token import token_losses
from tests.models.test_vlm import documents
from tests.models.tiny import batch_of, vlm


def logits(model: VLM) -> torch.Tensor:
    with evaluating(model):
        return model(batch_of(documents()))


def adapted(**settings: object) -> VLM:
    model = vlm()
    lora.attach(model, Lora.model_validate({"rank": 2, "alpha": 4, **settings}), seed=5)
    return model


def train_a_little(model: VLM) -> None:
    set_trained(model, ("lora",), "instruct")
    set_modes(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    batch = batch_of(documents())
    for _ in range(3):
        optimizer.zero_grad()
        token_losses(model(batch), batch.targets_L).sum().backward()
        optimizer.step()


def test_putting_adapters_on_changes_no_logit() -> None:
    assert torch.equal(logits(adapted(dropout=0.5)), logits(vlm()))


def test_folding_trained_adapters_in_changes_no_logit_and_leaves_the_stock_parameters() -> None:
    model = adapted(dropout=0.5)
    train_a_little(model)
    before = logits(model)
    assert (before - logits(vlm())).abs().max() > 0.01, "nothing was learnt: the test shows nothing"
    assert lora.merge(model) == len(lora.targets(vlm(), Lora(rank=2)))
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in vlm().named_parameters()}


def test_adapters_of_the_language_model_never_reach_a_tower_whose_layers_are_called_the_same() -> None:
    """Both have layers.0.self_attn.q_proj; by that bare name peft would find both."""
    assert {n.rpartition("layers.")[2] for n in lora.targets(vlm(), Lora())} & {n.rpartition("layers.")[2] for n in lora.targets(vlm(), Lora(targets=("encoders",)))}
    assert {n.split(".")[0] for n, _ in adapted().named_parameters() if ".lora_" in n} == {"language"}
    film = {n.rpartition(".lora_")[0] for n, _ in adapted(targets=["encoders.film"]).named_parameters() if ".lora_" in n}
    assert film and all(n.startswith("encoders.film.") for n in film)


def test_the_head_gets_no_adapter_and_every_other_layer_of_the_target_does() -> None:
    linear = {n for n, m in vlm().language.named_modules() if isinstance(m, nn.Linear)}
    assert {n.removeprefix("language.") for n in lora.targets(vlm(), Lora())} == linear - {"lm_head"}
    attention = lora.targets(vlm(), Lora(targets=("language.*.q_proj", "language.*.v_proj")))
    assert len(attention) == 4 and all(n.endswith(("q_proj", "v_proj")) for n in attention)


def test_a_target_that_matches_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"lora.targets: 'langauge' matches no linear layer"):
        adapted(targets=["language", "langauge"])


def test_putting_adapters_on_decides_nothing_about_what_else_is_trained() -> None:
    model = vlm()
    set_trained(model, ("connectors", "language.model.norm"), "instruct")
    before = {n for n, p in model.named_parameters() if p.requires_grad}
    lora.attach(model, Lora(rank=2), seed=5)
    assert {n for n, p in model.named_parameters() if p.requires_grad and ".lora_" not in n} == before


def test_adapters_start_from_their_seed_alone() -> None:
    torch.manual_seed(1)
    one = adapted().state_dict()
    torch.manual_seed(2)
    again, other = adapted().state_dict(), vlm()
    lora.attach(other, Lora(rank=2, alpha=4), seed=6)
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not all(torch.equal(one[n], other.state_dict()[n]) for n in one)


def test_dropout_of_adapters_is_on_in_training_only() -> None:
    model = adapted(dropout=0.5)
    train_a_little(model)
    batch = batch_of(documents())
    assert not torch.equal(model(batch), model(batch))
    assert torch.equal(logits(model), logits(model))
    assert not torch.equal(model(batch), model(batch)), "evaluating left the model in eval mode"


def test_a_layer_whose_weight_is_read_by_another_gets_no_adapter() -> None:
    """torch's attention, as in SigLIP's pooling, never calls its out_proj: folding an adapter in would change what it computes."""
    model = nn.ModuleDict({"language": nn.ModuleDict({"pool": nn.MultiheadAttention(8, 2), "q_proj": nn.Linear(8, 8)})})
    assert lora.targets(model, Lora()) == ["language.q_proj"]
