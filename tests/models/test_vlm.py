"""Rows that hold several texts, shared prompts and images compute what the stock model computes for each text alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from medvlm.core.errors import ShapeError
from medvlm.data.dialogue import TokenSequence
from medvlm.models.attention import make_mask
from medvlm.models.parts import evaluating, set_modes, set_trained
from medvlm.models.vlm import VLM
from medvlm.objectives.next_token import token_losses
from tests.models.tiny import FAMILIES, IMAGE_ID, PAD_ID, WINDOWED, batch_of, document, language, spread, vlm


def documents(seed: int = 0) -> list[TokenSequence]:
    """Without and with images, of one and of both encoders, with one and with several continuations."""
    generator = torch.Generator().manual_seed(seed)
    return [
        document(generator, (), 5, [(4, 0)]),
        document(generator, ("film",), 3, [(5, 2), (3, 0), (6, 3)]),
        document(generator, ("film", "film", "film"), 2, [(4, 1)]),
        document(generator, ("volume", "film"), 4, [(3, 1), (4, 0)]),
        document(generator, ("volume",), 1, [(2, 0)]),
    ]


def alone(model: VLM, made: TokenSequence, branch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of one continuation as stock parts give them: no packing, no mask, no padding."""
    ids, untrained = made.branches[branch]
    whole = torch.tensor([made.prefix + ids])
    embeds = model.language.get_input_embeddings()(whole)  # type: ignore[operator]
    rows = []
    for name, pixels in made.media:
        pixels = pixels[None].to(embeds.dtype)
        tower: Any = model.encoders[name].tower
        hidden = (
            tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
            if name == "film"
            else tower(pixels)[0]
        )
        rows.append(model.connectors[name](hidden)[0])
    if rows:
        embeds = torch.cat(
            [embeds[:, :1], torch.cat(rows)[None], embeds[:, 1 + len(torch.cat(rows)) :]], 1
        )  # the images follow the first token
    logits = model.language(inputs_embeds=embeds).logits[0]
    first = len(made.prefix) + untrained
    return logits[first - 1 : -1], whole[0, first:]


def stock_loss(model: VLM, made: list[TokenSequence]) -> torch.Tensor:
    pairs = [alone(model, d, b) for d in made for b in range(len(d.branches))]
    return cross_entropy(torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs]), reduction="sum")


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gemma2"])
def test_packed_rows_and_shared_prefixes_give_the_loss_and_gradients_of_each_text_alone(family: str) -> None:
    model, made = vlm(family).double(), documents()
    batch = batch_of(made)
    assert len(batch.ids_BT) < len(made), "nothing was packed: the test shows nothing"
    loss = token_losses(model(batch)["logits_LV"], batch.targets_L).sum()
    expected = stock_loss(model, made)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    got, want = gradients(model, loss), gradients(model, expected)
    assert {n for n in want if want[n].any()} == {n for n in got if got[n].any()}
    for name, gradient in want.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()) + 1e-9)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(("family", "changes"), [*((f, {}) for f in FAMILIES), *WINDOWED.items()])
def test_logits_of_trained_tokens_are_those_of_the_stock_model(
    family: str, changes: dict[str, Any], pack: bool
) -> None:
    """Also where the model caps or scales its logits, and where layers look back 3 tokens only."""
    lm = spread(language(family, **changes), by=3) if family in FAMILIES else spread(_windowed(changes), by=3)
    model = VLM(nn.ModuleDict(), nn.ModuleDict(), lm, IMAGE_ID).eval()
    generator = torch.Generator().manual_seed(1)
    made = [
        document(generator, (), 9, [(5, 1), (7, 0)]),
        document(generator, (), 2, [(3, 0)]),
        document(generator, (), 3, [(9, 2)]),
    ]
    batch = batch_of(made, pack)
    with torch.no_grad():
        got = model(batch)["logits_LV"]
        expected = [
            lm(input_ids=torch.tensor([d.prefix + ids])).logits[0, len(d.prefix) + skipped - 1 : -1]
            for d in made
            for ids, skipped in d.branches
        ]
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-5, atol=1e-6)


def _windowed(changes: dict[str, Any]) -> nn.Module:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**changes)).eval()


def test_every_trained_token_is_a_target_once_and_no_placeholder_is() -> None:
    made = documents()
    batch = batch_of(made)
    assert batch.targets_L.tolist() == [i for d in made for ids, skipped in d.branches for i in ids[skipped:]]
    assert IMAGE_ID not in batch.targets_L and int((batch.ids_BT == IMAGE_ID).sum()) == len(batch.feature_rows)
    assert not (batch.docs_BT.flatten()[batch.from_L] < 0).any(), "padding predicts nothing"
    assert (batch.ids_BT[batch.docs_BT < 0] == PAD_ID).all()


def test_rows_of_one_plain_text_need_no_mask_of_their_own() -> None:
    generator = torch.Generator().manual_seed(0)
    made = [document(generator, (), 5, [(4, 0)]), document(generator, (), 1, [(2, 0)])]
    plain = make_mask(batch_of(made, pack=False), torch.float32, language("qwen2").config)
    assert isinstance(plain, torch.Tensor) and plain.tolist() == [[1] * 10, [1] * 4 + [0] * 6]


def test_a_frozen_tower_keeps_no_graph_and_its_connector_is_still_trained() -> None:
    model, made = vlm(), documents()
    set_trained(model, ("connectors",), "align")
    kept = []
    model.encoders["film"].register_forward_hook(lambda module, args, out: kept.append(out.patches.requires_grad))
    token_losses(model(batch_of(made))["logits_LV"], batch_of(made).targets_L).sum().backward()
    assert kept == [False]
    grown = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert grown == {n for n, _ in model.named_parameters() if n.startswith("connectors.")}


@pytest.mark.parametrize("media", [(), ("film",)], ids=["text alone", "films alone"])
def test_a_trained_tower_without_media_runs_on_a_dummy_and_gets_a_gradient_of_zero(media: tuple[str, ...]) -> None:
    """Ranks that train a tower wait for each other's gradients of it: None would be a deadlock, anything else a
    fault."""
    model = vlm()
    set_trained(model, ("encoders", "connectors"), "align")
    set_modes(model)
    both = batch_of(documents())
    reached = set(gradients(model, token_losses(model(both)["logits_LV"], both.targets_L).sum()))
    model.zero_grad()
    batch = batch_of([document(torch.Generator().manual_seed(0), media, 4, [(3, 0)])])
    got = gradients(model, token_losses(model(batch)["logits_LV"], batch.targets_L).sum())
    assert got.keys() == reached, "with other parameters than where there are media of both kinds"
    assert {n for n in reached if got[n].any()} == {n for n in reached if n.split(".")[1] in media and got[n].any()}
    with evaluating(model):
        plain = token_losses(model(batch)["logits_LV"], batch.targets_L).sum()
    assert token_losses(model(batch)["logits_LV"], batch.targets_L).sum().item() == plain.item(), (
        "the dummy changed the loss"
    )


def test_a_tower_without_media_does_not_run_where_nothing_is_trained() -> None:
    model = vlm()
    ran = []
    for encoder in model.encoders.values():
        encoder.register_forward_hook(lambda module, args, out: ran.append(module))
    batch = batch_of([document(torch.Generator().manual_seed(0), (), 4, [(3, 0)])])
    with evaluating(model):
        model(batch)
    set_trained(model, ("language",), "read")
    model(batch)
    assert not ran


def test_pixels_of_another_size_are_refused_with_both_sizes() -> None:
    batch = batch_of([document(torch.Generator().manual_seed(0), ("film",), 4, [(3, 0)])])
    batch.media["film"] = torch.zeros(1, 3, 24, 24)
    with pytest.raises(ShapeError, match=r"encoders.film takes \(3, 16, 16\), the batch has \(3, 24, 24\)"):
        vlm()(batch)
