"""Adapters change nothing when they are put on, nothing when they are folded in, and reach only what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.backbones import causal
from medvlm.core.errors import RecipeError
from medvlm.core.lora_config import Lora
from medvlm.core.stage_config import Optim
from medvlm.models import lora
from medvlm.models.parts import evaluating, matches, set_modes, set_trained
from medvlm.models.restore import load_weights
from medvlm.models.vlm import VLM
from medvlm.objectives.next_token import token_losses
from medvlm.train.optim import make_optimizer
from tests.models.test_vlm import documents
from tests.models.tiny import GROUPED, IMAGE_ID, Ids, batch_of, document, vlm


def logits(model: VLM) -> torch.Tensor:
    with evaluating(model):
        return model(batch_of(documents()))["logits_LV"]


def adapted(family: str = "qwen2", **settings: Any) -> VLM:
    model = vlm(family)
    lora.attach(model, Lora.model_validate({"rank": 2, "alpha": 4, **settings}), seed=5)
    return model


def train_a_little(model: VLM) -> None:
    set_trained(model, ("lora",), "instruct")
    set_modes(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    batch = batch_of(documents())
    for _ in range(3):
        optimizer.zero_grad()
        token_losses(model(batch)["logits_LV"], batch.targets_L).sum().backward()
        optimizer.step()


def test_putting_adapters_on_changes_no_logit() -> None:
    assert torch.equal(logits(adapted(dropout=0.5)), logits(vlm()))


def test_pissa_takes_the_largest_singular_values_out_of_the_weight() -> None:
    """A and B hold those of the weight, up to the error of the randomized decomposition; the base keeps the rest."""
    model, plain = adapted(start="pissa"), vlm()
    torch.testing.assert_close(logits(model), logits(plain), rtol=1e-4, atol=1e-5)
    name = "language.model.layers.0.self_attn.q_proj"
    layer, weight = model.get_submodule(name), plain.get_submodule(name).weight.detach()
    moved = 2 * layer.lora_B.default.weight @ layer.lora_A.default.weight
    torch.testing.assert_close(layer.base_layer.weight + moved, weight, rtol=1e-5, atol=1e-6)
    values = torch.linalg.svdvals(weight)
    torch.testing.assert_close(torch.linalg.svdvals(moved)[:2], values[:2], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(torch.linalg.svdvals(layer.base_layer.weight)[:-2], values[2:], rtol=1e-2, atol=1e-4)
    train_a_little(model)
    again = vlm(seed=3)
    load_weights(again, model.state_dict(), Lora(rank=2, alpha=4, start="pissa"), "instruct/step-3")
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in model.state_dict().items())
    assert lora.merge(again) and {n for n, _ in again.named_parameters()} == {n for n, _ in plain.named_parameters()}


def test_the_two_factors_of_an_adapter_have_rates_of_their_own() -> None:
    """LoRA+."""
    model = adapted()
    set_trained(model, ("lora",), "instruct")
    optimizer = make_optimizer(model, Optim(lr=1e-4, lr_of={"lora.B": 16.0}), matches, "instruct")
    names = {id(p): n for n, p in model.named_parameters()}
    factors = {names[id(p)]: group["factor"] for group in optimizer.param_groups for p in group["params"]}
    assert set(factors.values()) == {1.0, 16.0}
    assert all((factor == 16.0) == (".lora_B" in name) for name, factor in factors.items())
    set_trained(model, ("lora.B",), "instruct")
    assert all(p.requires_grad == (".lora_B" in n) for n, p in model.named_parameters())


def test_folding_trained_adapters_in_changes_no_logit_and_leaves_the_stock_parameters() -> None:
    model = adapted(dropout=0.5)
    train_a_little(model)
    before = logits(model)
    assert (before - logits(vlm())).abs().max() > 0.01, "nothing was learnt: the test shows nothing"
    assert lora.merge(model) == len(lora.find_targets(vlm(), Lora(rank=2)))
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in vlm().named_parameters()}


def test_adapters_of_the_language_model_never_reach_a_tower_whose_layers_are_called_the_same() -> None:
    """Both have layers.0.self_attn.q_proj; by that bare name peft would find both."""
    assert {n.rpartition("layers.")[2] for n in lora.find_targets(vlm(), Lora())} & {
        n.rpartition("layers.")[2] for n in lora.find_targets(vlm(), Lora(targets=("encoders",)))
    }
    assert {n.split(".")[0] for n, _ in adapted().named_parameters() if ".lora_" in n} == {"language"}
    film = {
        n.rpartition(".lora_")[0] for n, _ in adapted(targets=["encoders.film"]).named_parameters() if ".lora_" in n
    }
    assert film and all(n.startswith("encoders.film.") for n in film)


def test_the_head_gets_no_adapter_and_every_other_layer_of_the_target_does() -> None:
    linear = {n for n, m in vlm().language.named_modules() if isinstance(m, nn.Linear)}
    assert {n.removeprefix("language.") for n in lora.find_targets(vlm(), Lora())} == linear - {"lm_head"}
    attention = lora.find_targets(vlm(), Lora(targets=("language.*.q_proj", "language.*.v_proj")))
    assert len(attention) == 4 and all(n.endswith(("q_proj", "v_proj")) for n in attention)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "langauge",
            (
                r"'langauge' matches no linear layer of this model \(it has linear layers in connectors.film,"
                r" connectors.volume, encoders.film, encoders.volume, language\)"
            ),
        ),
        (
            "q_proj",
            (
                r"'q_proj' matches no linear layer of this model; did you mean encoders.film.\*.q_proj or"
                r" language.\*.q_proj\?"
            ),
        ),
        (
            "*.q_proj",
            r"'\*.q_proj' matches layers of encoders.film and language; say which are meant, e.g. language.\*.q_proj",
        ),
        ("language.model.norm", "'language.model.norm' matches no linear layer"),
    ],
)
def test_a_target_that_matches_nothing_or_the_wrong_module_is_refused(target: str, message: str) -> None:
    with pytest.raises(RecipeError, match=f"lora.targets: {message}"):
        adapted(targets=["language", target])
    with torch.device("meta"):
        shapes = vlm()
    with pytest.raises(RecipeError, match=f"lora.targets: {message}"):
        lora.find_targets(shapes, Lora(targets=(target,)))


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
    assert not torch.equal(model(batch)["logits_LV"], model(batch)["logits_LV"])
    assert torch.equal(logits(model), logits(model))
    assert not torch.equal(model(batch)["logits_LV"], model(batch)["logits_LV"]), (
        "evaluating left the model in eval mode"
    )


def test_a_layer_whose_weight_is_read_by_another_gets_no_adapter() -> None:
    """torch's attention, as in SigLIP's pooling, never calls its out_proj: folding an adapter in would change what it
    computes."""
    model = nn.ModuleDict({"language": nn.ModuleDict({"pool": nn.MultiheadAttention(8, 2), "q_proj": nn.Linear(8, 8)})})
    assert lora.find_targets(model, Lora()) == ["language.q_proj"]


# --- the variants ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "settings"),
    [("qwen2", {"dora": True}), ("qwen2", {"rslora": True}), ("gpt2", {}), ("gpt2", {"dora": True, "rslora": True})],
)
def test_variants_and_layers_with_transposed_weights_start_as_the_base_learn_and_fold_in(
    family: str, settings: dict[str, Any]
) -> None:
    """GPT-2's Conv1D holds its weight as [in, out]. DoRA divides a weight by its own length, so it starts as the base
    up to rounding."""
    model, base = adapted(family, **settings), vlm(family)
    assert len(lora.find_targets(base, Lora())) == (8 if family == "gpt2" else 14)
    torch.testing.assert_close(logits(model), logits(base), rtol=1e-5, atol=1e-6)
    train_a_little(model)
    before = logits(model)
    assert (before - logits(base)).abs().max() > 0.01, "nothing was learnt: the test shows nothing"
    if settings.get("dora"):
        grown = [p.grad for n, p in model.named_parameters() if "lora_magnitude" in n]
        assert grown and all(g is not None and g.any() for g in grown)
    lora.merge(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5)
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in base.named_parameters()}


@pytest.mark.parametrize(("settings", "scale"), [({}, 8 / 4), ({"rslora": True}, 8 / 2)])
def test_an_adapter_adds_its_product_times_alpha_over_rank_or_over_its_root(
    settings: dict[str, Any], scale: float
) -> None:
    model, base = adapted(rank=4, alpha=8, targets=["language.model.layers.0.mlp.up_proj"], **settings), vlm()
    layer, plain = (m.get_submodule("language.model.layers.0.mlp.up_proj") for m in (model, base))
    with torch.no_grad():
        layer.lora_B.default.weight.normal_()
    delta = scale * layer.lora_B.default.weight @ layer.lora_A.default.weight
    x = torch.randn(3, 16)
    torch.testing.assert_close(layer(x), plain(x) + x @ delta.T, rtol=1e-5, atol=1e-6)


def quantized(folder: Path) -> VLM:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    pytest.importorskip("bitsandbytes")
    if not (folder / "config.json").exists():
        torch.manual_seed(2)
        Qwen2ForCausalLM(Qwen2Config(**{**GROUPED, "hidden_size": 64, "intermediate_size": 64})).save_pretrained(folder)
    language = causal.build(causal.Config(kind="causal", model=str(folder), quantize="nf4"), Ids())
    return VLM(nn.ModuleDict(), nn.ModuleDict(), language, IMAGE_ID)


def test_adapters_of_a_4_bit_model_learn_and_fold_into_the_weights_it_was_computed_with(tmp_path: Path) -> None:
    """Folding into 4 bits, as peft does, would round them away."""
    model, again = quantized(tmp_path), quantized(tmp_path)
    generator = torch.Generator().manual_seed(0)
    batch = batch_of([document(generator, (), 5, [(4, 0)]), document(generator, (), 3, [(6, 1)])])
    layers = [m for m in model.modules() if type(m).__name__ == "Linear4bit"]
    assert len(layers) == 14
    with pytest.raises(
        RecipeError,
        match=(
            r"trains: language.model.layers.0.self_attn.q_proj.weight is quantized, and only adapters of it can be"
            r" trained"
        ),
    ):
        set_trained(model, ("language",), "instruct")
    with pytest.raises(RecipeError, match=r"lora.dora: adapters of a quantized language model cannot be merged"):
        lora.attach(model, Lora(dora=True), seed=1)
    with pytest.raises(RecipeError, match=r"lora.start: pissa: adapters of a quantized language model cannot"):
        lora.attach(model, Lora(start="pissa"), seed=1)
    lora.attach(model, Lora(rank=4, alpha=16), seed=1)
    set_trained(model, ("lora",), "instruct")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        token_losses(model(batch)["logits_LV"], batch.targets_L).sum().backward()
        optimizer.step()
    saved = model.state_dict()
    with evaluating(model):
        before = model(batch)["logits_LV"]
    load_weights(again, saved, Lora(rank=4, alpha=16), "instruct/step-3")
    with evaluating(again):
        assert torch.equal(again(batch)["logits_LV"], before), "saved and read back"
    assert lora.merge(model) == 14
    with evaluating(model):
        torch.testing.assert_close(model(batch)["logits_LV"], before, rtol=1e-4, atol=1e-5)
    assert not any(type(m).__name__ == "Linear4bit" for m in model.modules())
    model.language.save_pretrained(tmp_path / "merged")
    assert "quantization_config" not in (tmp_path / "merged" / "config.json").read_text()


def test_without_bitsandbytes_quantization_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'medvlm\[quantized\]'"):
        causal.build(causal.Config(kind="causal", model=str(tmp_path), quantize="nf4"), Ids())
