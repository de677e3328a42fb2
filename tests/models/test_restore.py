"""Weights of an earlier stage go in whole or not at all, and the message names the first key that does not fit."""

from __future__ import annotations

import pytest
import torch

from medvlm.core.errors import CheckpointError
from medvlm.core.lora_config import Lora
from medvlm.models import lora
from medvlm.models.restore import load_weights, modules_of
from tests.models.tiny import vlm

WHERE = "pair/step-40"


def test_every_weight_goes_in() -> None:
    source, target = vlm(seed=1), vlm(seed=2)
    load_weights(target, source.state_dict(), None, WHERE)
    assert all(torch.equal(t, target.state_dict()[n]) for n, t in source.state_dict().items())


def test_a_frozen_weight_keeps_the_precision_in_which_it_was_published() -> None:
    """A stage in mixed precision rounds it; one that it trained is taken as it is stored."""
    published, target = vlm(seed=1).state_dict(), vlm(seed=1)
    name, other = [n for n in published if n.startswith("language.") and published[n].ndim > 1][:2]
    stored = {**published, name: published[name].bfloat16(), other: (published[other] + 1).bfloat16()}
    load_weights(target, stored, None, WHERE)
    assert torch.equal(target.state_dict()[name], published[name])
    assert torch.equal(target.state_dict()[other], stored[other].float())


def test_only_the_modules_that_were_asked_for_go_in() -> None:
    source, target, before = vlm(seed=1), vlm(seed=2), vlm(seed=2).state_dict()
    load_weights(target, source.state_dict(), None, WHERE, {"encoders.film", "language"})
    for name, tensor in target.state_dict().items():
        expected = source.state_dict() if name.startswith(("encoders.film.", "language.")) else before
        assert torch.equal(tensor, expected[name]), name


def test_adapters_are_put_on_first() -> None:
    source, target = vlm(seed=1), vlm(seed=2)
    settings = Lora(rank=3)
    lora.attach(source, settings, seed=1)
    with torch.no_grad():
        for name, parameter in source.named_parameters():
            if ".lora_B" in name:
                parameter.normal_()
    load_weights(target, source.state_dict(), settings, WHERE)
    assert all(torch.equal(t, target.state_dict()[n]) for n, t in source.state_dict().items())


def test_a_missing_key_is_named() -> None:
    weights = vlm().state_dict()
    del weights["connectors.film.linear_1.bias"], weights["language.model.norm.weight"]
    with pytest.raises(CheckpointError, match=r"pair/step-40: connectors.film.linear_1.bias is missing \(2 keys\)"):
        load_weights(vlm(), weights, None, WHERE)


def test_a_key_without_a_place_is_named() -> None:
    with pytest.raises(
        CheckpointError, match=r"pair/step-40: language.extra.weight has no place in this model \(1 keys\)"
    ):
        load_weights(vlm(), {**vlm().state_dict(), "language.extra.weight": torch.zeros(2)}, None, WHERE)


def test_a_key_of_another_shape_is_named_with_both_shapes() -> None:
    weights = {**vlm().state_dict(), "connectors.film.linear_2.bias": torch.zeros(5)}
    with pytest.raises(CheckpointError, match=r"connectors.film.linear_2.bias is \(5,\), this model needs \(16,\)"):
        load_weights(vlm(), weights, None, WHERE)


def test_a_refused_checkpoint_leaves_the_model_as_it_was() -> None:
    target, before = vlm(seed=2), vlm(seed=2).state_dict()
    with pytest.raises(CheckpointError):
        load_weights(target, {**vlm(seed=1).state_dict(), "language.extra.weight": torch.zeros(2)}, None, WHERE)
    assert all(torch.equal(t, before[n]) for n, t in target.state_dict().items())


def test_a_stage_hands_on_encoders_and_connectors_one_by_one_and_the_rest_whole() -> None:
    names = [
        "encoders.film.tower.x",
        "encoders.volume.y",
        "connectors.film.z",
        "language.model.q.lora_A.default.weight",
        "heads.scale.bias",
    ]
    assert modules_of(names) == {"encoders.film", "encoders.volume", "connectors.film", "language", "heads"}
