"""The terms that make the recipes of a published SAM that is adapted to medical images: without any of them, the loss
or what is trained is something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.config import component
from medvlm.core.mask_prompts import Prompts
from medvlm.data.prompts import stack_prompts
from medvlm.models.decoding import Labelled, build_decoding
from medvlm.models.lora import attach
from medvlm.models.parts import set_modes, set_trained
from medvlm.recipe.load import load
from medvlm.stages._prompted import draw_objects

SIDE, ENCODER, DECODER = 64, "frame", "polyp"
TOWER = {
    "model_type": "sam_vision_model",
    "hidden_size": 16,
    "output_channels": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
    "mlp_dim": 16,
    "window_size": 4,
    "global_attn_indexes": [1],
}


def read(system: str) -> tuple[Any, Any, Any]:
    """The encoder, the decoder and the stage of a recipe, at toy size."""
    recipe = load(f"systems/{system}.yaml").recipe
    encoder, decoder = recipe.model.encoders[ENCODER], recipe.model.decoders[DECODER]
    assert encoder.model == decoder.model == "facebook/sam-vit-base" and encoder.layer == "normed"
    before = encoder.preprocess.model_copy(update={"size": (SIDE, SIDE)})
    small = encoder.model_copy(update={"model": "", "config": TOWER, "preprocess": before})
    sizes = {"model": "", "width": 32, "heads": 2, "mlp": 16, "objects": 4}
    return small, decoder.model_copy(update=sizes), recipe.stages[0]


def learn(encoder: Any, decoder: Any, stage: Any) -> tuple[float, set[str]]:
    """The loss of one batch, and the parts that it gives a gradient."""
    model = build_decoding({ENCODER: encoder}, {DECODER: decoder}, seed=0)
    if stage.lora:
        attach(model, stage.lora, seed=0)
    set_trained(model, stage.trains, stage.name)
    set_modes(model)
    labels, prompts = draw(decoder)
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    batch = Labelled(
        {ENCODER: pixels}, {DECODER: torch.zeros(len(labels), dtype=torch.long)}, prompts={DECODER: prompts}
    )
    outputs = model(batch)
    own = {name.removeprefix(f"decoders.{DECODER}").removeprefix("."): each for name, each in outputs.items()}
    total = torch.zeros(())
    for loss in stage.losses[DECODER]:
        module = component("objectives.heads", loss.kind)
        weight = module.weigh(loss, labels, decoder.as_one())
        total = total + loss.weight * module.add_up(loss, own[""], labels, decoder.as_one()) / weight
    sam = component("decoders", "sam")
    for term in sam.list_terms(decoder):
        total = total + sam.add_up_term(decoder, term, own, labels, prompts) / len(labels)
    total.backward()
    moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    return total.item(), {find_part(name) for name in moved}


def draw(decoder: Any) -> tuple[torch.Tensor, Prompts]:
    masks = np.zeros((4, SIDE, SIDE), np.int64)
    for number in range(4):
        masks[number, 24 : 30 + 4 * number, 25 : 50 - 4 * number] = 1
    objects = [(0, mask) for mask in masks]
    drawn = list(draw_objects(decoder, lambda whole: objects, np.random.default_rng(1)))
    return torch.stack([labels for labels, _ in drawn]), stack_prompts([prompt for _, prompt in drawn])


def find_part(name: str) -> str:
    if ".lora_" in name:
        return "lora"
    return "encoder" if name.startswith("encoders.") else name.split(".")[2]


PARTS = {
    "sam4mis_full": {"encoder", "mask_decoder"},
    "sam4mis_decoder": {"mask_decoder"},
    "sam4mis_lora": {"lora", "mask_decoder", "classes", "prompt_encoder"},
}


@pytest.mark.parametrize("system", PARTS)
def test_what_is_trained_makes_the_adapter_class(system: str) -> None:
    encoder, decoder, stage = read(system)
    assert learn(encoder, decoder, stage)[1] == PARTS[system]
    frozen = stage.model_copy(update={"trains": (f"decoders.{DECODER}.prompt_encoder",), "lora": None})
    assert learn(encoder, decoder, frozen)[1] <= {"prompt_encoder"}


OFF: list[tuple[str, str, dict[str, Any]]] = [
    ("sam4mis_full", "decoder", {"jitter_px": 0}),
    ("sam4mis_full", "losses", {"dice": 0}),
    ("sam4mis_decoder", "decoder", {"prompts": ("box",)}),
    ("sam4mis_decoder", "decoder", {"iou": 0.0}),
    ("sam4mis_lora", "decoder", {"prompts": ("box",)}),
    ("sam4mis_lora", "losses", {"dice": 0.5, "binary_cross_entropy": 0.5}),
]


@pytest.mark.parametrize(("system", "where", "off"), OFF, ids=str)
def test_without_a_term_the_loss_is_another(system: str, where: str, off: dict[str, Any]) -> None:
    encoder, decoder, stage = read(system)
    whole, _ = learn(encoder, decoder, stage)
    assert learn(encoder, decoder, stage)[0] == whole, "it is not only the term that differs"
    if where == "decoder":
        assert all(getattr(decoder, key) != value for key, value in off.items()), "it is off already"
        decoder = decoder.model_copy(update=off)
    else:
        changed = [
            each.model_copy(update={"weight": off.get(each.kind, each.weight)}) for each in stage.losses[DECODER]
        ]
        kept = tuple(each for each in changed if each.weight)
        assert kept != stage.losses[DECODER]
        stage = stage.model_copy(update={"losses": {DECODER: kept}})
    assert learn(encoder, decoder, stage)[0] != pytest.approx(whole, rel=1e-6)


def test_an_adapter_changes_nothing_until_it_is_trained() -> None:
    encoder, decoder, stage = read("sam4mis_lora")
    plain = stage.model_copy(update={"lora": None, "trains": (f"decoders.{DECODER}",)})
    assert learn(encoder, decoder, stage)[0] == pytest.approx(learn(encoder, decoder, plain)[0], rel=1e-6)
