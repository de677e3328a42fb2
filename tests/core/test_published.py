"""What counts as published, and what checkpoints state of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medvlm.core.errors import CheckpointError
from medvlm.core.lora_config import Lora
from medvlm.core.published import Published, fingerprint, list_published, mark, require_published
from medvlm.models import lora
from tests.models.tiny import vlm

LAYER = "language.model.layers.0.self_attn.q_proj"


def test_only_tensors_that_were_read_and_not_written_to_are_published() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Embedding(4, 2))
    mark(model, fresh=["1.bias"])
    assert list_published(model).keys() == model.state_dict().keys() - {"1.bias"}
    with torch.no_grad():
        model[0].weight.mul_(2)
    model[2].weight.data = torch.zeros(5, 2)  # as transformers makes a table longer
    assert list_published(model).keys() == {"0.bias", "1.weight"}
    assert not list_published(vlm())


def test_statistics_that_moved_are_not_unchanged() -> None:
    norm = nn.BatchNorm1d(3)
    mark(norm)
    published = Published(norm)
    norm(torch.randn(4, 3))
    assert published.find_unchanged(norm).keys() == {"weight", "bias"}


def test_adapters_rename_what_is_published_and_merging_changes_it() -> None:
    model = vlm()
    mark(model.language)
    published = Published(model, lambda name: name.startswith("language.model.layers.1."))
    lora.attach(model, Lora(rank=2), seed=0)
    unchanged = published.find_unchanged(model)
    assert unchanged[f"{LAYER}.base_layer.weight"] == fingerprint(model.get_parameter(f"{LAYER}.base_layer.weight"))
    assert not any(".lora_" in name or "layers.1." in name or name.startswith("encoders") for name in unchanged)
    with torch.no_grad():
        model.get_parameter(f"{LAYER}.lora_B.default.weight").normal_()
    lora.merge(model)
    merged = published.find_unchanged(model)
    assert f"{LAYER}.weight" not in merged
    assert {n.replace(".base_layer.", ".") for n in unchanged} - merged.keys() == {f"{LAYER}.weight"}


def test_both_names_of_a_tied_tensor_are_published() -> None:
    model = nn.ModuleDict({"words": nn.Embedding(4, 2), "head": nn.Linear(2, 4, bias=False)})
    model["head"].weight = model["words"].weight
    mark(model)
    assert Published(model).find_unchanged(model).keys() == {"words.weight", "head.weight"}


def test_a_model_of_other_published_weights_is_refused() -> None:
    own = {"a": torch.randn(3, 2), "b": torch.arange(4), "c": torch.tensor(1.5)}
    stated = {"a": fingerprint(own["a"].bfloat16()), "b": fingerprint(own["b"]), "c": fingerprint(own["c"])}
    assert stated["a"].startswith("bfloat16:") and len(set(stated.values())) == 3
    require_published(own, stated, "tune/step-3")
    own["a"][0, 0] += 1e-9  # less than bfloat16 tells apart
    require_published(own, stated, "tune/step-3")
    own["b"][3] = 0
    with pytest.raises(CheckpointError, match=r"tune/step-3: b is not stored in it.* are others now \(1 of 3 tensors"):
        require_published(own, stated, "tune/step-3")
