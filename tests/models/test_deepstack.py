"""Tokens of several layers of an encoder reach the layers of the language model, as in Qwen3-VL's own text model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from medvlm.backbones import causal
from medvlm.connectors import mlp
from medvlm.core.contracts import Preprocess
from medvlm.core.errors import RecipeError, ShapeError
from medvlm.encoders import timm, transformers
from medvlm.models.deepstack import StackedConnector, join_layers
from medvlm.models.generate import generate
from medvlm.models.parts import build_connectors, build_encoders, evaluating
from medvlm.models.vlm import VLM
from medvlm.objectives.next_token import token_losses
from medvlm.recipe.load import load
from tests.models.test_vlm import documents, gradients
from tests.models.tiny import IMAGE_ID, SMALL, Ids, batch_of, vlm
from tests.tiny_run import INSTRUCT, TOWER, recipe, written

TEXT = {**SMALL, "num_hidden_layers": 3, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
CONFIG = {"model_type": "siglip_vision_model", **SMALL, "num_hidden_layers": 3, "image_size": 16, "patch_size": 8}


def film(**changes: Any) -> transformers.Config:
    given = {"kind": "transformers", "config": CONFIG, "layer": -1, "deepstack": (-3, -2), "connector": {"kind": "mlp"}}
    return transformers.Config.model_validate({**given, **changes})


@pytest.fixture(scope="module")
def model() -> VLM:
    """Films with two injected layers, volumes with none."""
    plain, configs = vlm(), {"film": film()}
    torch.manual_seed(3)
    language = causal.build(causal.Config(kind="causal", config={"model_type": "qwen3", **TEXT}), Ids())
    encoders = build_encoders(configs, 0)
    connectors = build_connectors(configs, encoders, 16, 0)
    encoders["volume"], connectors["volume"] = plain.encoders["volume"], plain.connectors["volume"]
    return VLM(encoders, connectors, language, IMAGE_ID).double().eval()


def compute_alone(model: VLM, made: Any, branch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of one continuation, by Qwen3-VL's text model with the weights of the language model."""
    from transformers import Qwen3VLTextConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

    ids, untrained = made.branches[branch]
    whole = torch.tensor([made.prefix + ids])
    language: Any = model.language
    embeds = language.get_input_embeddings()(whole)
    own, deep = [], [[], []]  # type: ignore[var-annotated]
    for name, pixels in made.media:
        tower, connector, pixels = model.encoders[name].tower, model.connectors[name], pixels[None].double()
        if name == "volume":
            own.append(connector(tower(pixels)[0])[0])
            nothing = torch.zeros_like(own[-1])
            [each.append(nothing) for each in deep]  # type: ignore[func-returns-value]
            continue
        hidden = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        own.append(connector.main(hidden[-1])[0])
        for each, one, layer in zip(deep, connector.deep, (-3, -2), strict=True):
            each.append(one(hidden[layer])[0])
    count = sum(map(len, own))
    if count:
        embeds = torch.cat([embeds[:, :1], torch.cat(own)[None], embeds[:, 1 + count :]], 1)
    text = Qwen3VLTextModel(
        Qwen3VLTextConfig(
            vocab_size=language.config.vocab_size,
            rope_parameters={**language.config.rope_parameters, "mrope_section": [2, 1, 1]},
            **TEXT,
        )
    ).double()
    state = {name.removeprefix("model."): tensor for name, tensor in language.named_parameters()}
    out = torch.func.functional_call(
        text,
        {name: state[name] for name, _ in text.named_parameters()},
        kwargs={
            "inputs_embeds": embeds,
            "visual_pos_masks": whole == IMAGE_ID,
            "deepstack_visual_embeds": [torch.cat(each) for each in deep] if count else None,
            "use_cache": False,
        },
    ).last_hidden_state
    first = len(made.prefix) + untrained
    return language.lm_head(out)[0, first - 1 : -1], whole[0, first:]


def compute_loss(model: VLM, made: list[Any]) -> torch.Tensor:
    pairs = [compute_alone(model, d, b) for d in made for b in range(len(d.branches))]
    return cross_entropy(torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs]), reduction="sum")


@pytest.mark.parametrize("pack", [True, False])
def test_rows_give_the_loss_and_gradients_of_qwen3_vl_on_each_text_alone(model: VLM, pack: bool) -> None:
    made = documents()
    batch = batch_of(made, pack)
    loss, expected = token_losses(model(batch)["logits_LV"], batch.targets_L).sum(), compute_loss(model, made)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    got, want = gradients(model, loss), gradients(model, expected)
    assert {n for n in want if want[n].any()} == {n for n in got if got[n].any()}
    assert any(name.startswith("connectors.film.deep.1.") for name in got)
    for name, gradient in want.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()) + 1e-9)


def test_an_answer_is_continued_as_it_is_trained(model: VLM) -> None:
    """Greedily, from a prompt of which the cache holds the injected tokens."""
    made = documents()[1]
    with evaluating(model):
        made.branches[:] = [([5], 0)]
        prompt = batch_of([made], pack=False)
        prompt.ids_BT, prompt.docs_BT = prompt.ids_BT[:, :-1], prompt.docs_BT[:, :-1]
        prompt.positions_BT, prompt.branches_BT = prompt.positions_BT[:, :-1], prompt.branches_BT[:, :-1]
        found = generate(model, prompt, max_new_tokens=4, end_ids=[])[0]
        for number in range(4):
            made.branches[:] = [([*found[:number], 0], 0)]
            logits = compute_alone(model, made, 0)[0][-1]
            logits[IMAGE_ID] = -torch.inf
            assert int(logits.argmax()) == found[number]


def test_without_images_the_layers_get_nothing_and_every_connector_is_in_the_graph(model: VLM) -> None:
    made = documents()[:1]
    batch = batch_of(made)
    grads = gradients(model, token_losses(model(batch)["logits_LV"], batch.targets_L).sum())
    assert {n for n, _ in model.connectors.named_parameters()} == {
        n.removeprefix("connectors.") for n in grads if n.startswith("connectors.")
    }
    layer: Any = model.language.model.layers[0]  # type: ignore[union-attr]
    assert not layer._forward_hooks


def test_an_encoder_gives_its_layers_in_the_order_of_the_recipe() -> None:
    joined = join_layers(film(layer=(-2, -1)))
    assert joined.layer == (-3, -2, -2, -1) and join_layers(film(deepstack=())).layer == -1
    stacked = StackedConnector(lambda width: nn.Linear(width, 5, bias=False), 2, 16, 2)
    assert [m.in_features for m in (*stacked.deep, stacked.main)] == [4, 4, 8]  # type: ignore[union-attr]


def test_layers_of_different_widths_are_refused() -> None:
    given = {"kind": "timm", "net": "resnet10t", "args": {"output_stride": 8}, "layer": -1, "deepstack": (-2,)}
    size = Preprocess(size=(32, 32))
    uneven = timm.Config.model_validate({**given, "connector": {"kind": "mlp"}, "preprocess": size})
    with pytest.raises(
        ShapeError, match=r"film: deepstack needs layers of one width; these have 768 channels together"
    ):
        build_connectors({"film": uneven}, build_encoders({"film": uneven}, 0), 16, 0)


def test_more_layers_than_the_language_model_has_are_refused(model: VLM) -> None:
    deep = nn.ModuleDict({"film": StackedConnector(lambda width: mlp.Mlp(width, 16), 4, 80, 1)})
    with pytest.raises(ShapeError, match=r"deepstack adds tokens behind 4 layers, and .* \(Qwen3ForCausalLM\) has 3"):
        VLM(nn.ModuleDict({"film": model.encoders["film"]}), deep, model.language, IMAGE_ID)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"layer": "normed"}, "deepstack needs `layer`, the layer of the image tokens themselves, e.g. layer: -1"),
        ({"connector": None}, "deepstack needs a connector"),
        ({"deepstack": [1]}, "deepstack.0: expected less than 0, found 1"),
    ],
)
def test_what_deepstack_cannot_mean_is_refused(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    made = recipe(stages=[INSTRUCT])
    made["model"]["encoders"]["film"] = {**TOWER, "connector": {"kind": "mlp"}, "deepstack": [-1], **change}
    with pytest.raises(RecipeError) as refused:
        load(written(tmp_path, made))
    assert why in str(refused.value)


def test_only_medvlm_can_load_an_export(tmp_path: Path) -> None:
    made = recipe(stages=[INSTRUCT], export={"target": "stock"})
    made["model"]["encoders"]["film"] = {**TOWER, "connector": {"kind": "mlp"}, "deepstack": [-1]}
    with pytest.raises(RecipeError, match=r"encoders.film.deepstack adds tokens behind layers of the language model"):
        load(written(tmp_path, made))
