"""What a name in `trains` means, which modules train, and that a part starts the same whatever else is built."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.errors import RecipeError
from medvlm.core.lora_config import Lora
from medvlm.encoders import transformers
from medvlm.models import lora
from medvlm.models.parts import (
    build_encoders,
    build_seeded,
    evaluating,
    group_of,
    is_trained,
    matches,
    set_modes,
    set_trained,
    tokens_of,
)
from tests.models.tiny import SMALL, vlm

NAMES = {
    "encoders.film.tower.layers.0.weight": "encoders.film",
    "encoders.filmstrip.tower.weight": "encoders.filmstrip",
    "connectors.film.linear_1.weight": "connectors.film",
    "language.model.layers.0.q_proj.weight": "language",
    "language.model.layers.0.q_proj.lora_A.default.weight": "lora",
    "language.model.norm.weight": "language",
    "text.tower.x": "text",
    "heads.scale.log_scale": "heads",
}


def test_parameters_belong_to_the_groups_people_speak_of() -> None:
    assert {n: group_of(n) for n in NAMES} == NAMES


@pytest.mark.parametrize(("pattern", "expected"), [
    ("encoders", {"encoders.film.tower.layers.0.weight", "encoders.filmstrip.tower.weight"}),
    ("encoders.film", {"encoders.film.tower.layers.0.weight"}),
    ("lora", {"language.model.layers.0.q_proj.lora_A.default.weight"}),
    ("language", {"language.model.layers.0.q_proj.weight", "language.model.norm.weight"}),
    ("language.*.norm.weight", {"language.model.norm.weight"}),
    ("*.q_proj.*", {"language.model.layers.0.q_proj.weight"}),
    ("heads.scale.log_scale", {"heads.scale.log_scale"}),
    ("lang", set()),
])  # fmt: skip
def test_a_pattern_means(pattern: str, expected: set[str]) -> None:
    assert {n for n in NAMES if matches(n, pattern)} == expected


def test_exactly_what_the_patterns_mean_is_trained() -> None:
    model = vlm()
    set_trained(model, ("connectors.film", "language.model.layers.1"), "align")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if n.startswith(("connectors.film.", "language.model.layers.1."))
    }


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_group() -> None:
    with pytest.raises(
        RecipeError,
        match=(
            r"stages.align.trains: 'conectors.film' matches no parameter, did you mean 'connectors.film'\? \(this model"
            r" has connectors.film"
        ),
    ):
        set_trained(vlm(), ("language", "conectors.film"), "align")


def modes(model: nn.Module, kind: type[nn.Module]) -> dict[str, bool]:
    return {n: m.training for n, m in model.named_modules() if isinstance(m, kind)}


def test_dropout_goes_with_the_module_it_stands_in() -> None:
    """Dropout has no parameters, so nothing of its own says whether it trains."""
    model = vlm()
    lora.attach(model, Lora(rank=2, dropout=0.5, targets=("language.model.layers.0",)), seed=0)
    set_trained(model, ("lora",), "instruct")
    set_modes(model)
    dropouts = modes(model, nn.Dropout)
    in_adapters = {n for n in dropouts if ".lora_dropout." in n}
    assert in_adapters and {n for n, training in dropouts.items() if training} == in_adapters
    assert any(n.startswith("encoders.volume.") for n in dropouts), "the volume's tower has dropout too, and is frozen"
    set_trained(model, ("encoders.volume",), "pair")
    set_modes(model)
    assert {n for n, training in modes(model, nn.Dropout).items() if training} == {
        n for n in dropouts if n.startswith("encoders.volume.")
    }


def test_batch_statistics_of_a_frozen_part_stand_still_and_those_of_a_trained_one_move() -> None:
    model = nn.ModuleDict(
        {
            name: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False), nn.BatchNorm1d(4))
            for name in ("frozen", "trained")
        }
    )
    model["frozen"].requires_grad_(False)
    set_modes(model)
    before = {n: b.clone() for n, b in model.named_buffers()}
    for part in model.values():
        part(torch.randn(8, 4))
    assert {n.split(".")[0] for n, b in model.named_buffers() if not torch.equal(b, before[n])} == {"trained"}


def test_evaluating_gives_every_module_its_mode_back_also_after_an_error() -> None:
    model = vlm()
    set_trained(model, ("language.model.layers.1",), "x")
    set_modes(model)
    before = modes(model, nn.Module)
    assert len(set(before.values())) == 2
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not any(modes(model, nn.Module).values()) and not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert modes(model, nn.Module) == before and torch.is_grad_enabled()


def tower(**changes: Any) -> transformers.Config:
    return transformers.Config(
        kind="transformers",
        config={"model_type": "siglip_vision_model", **SMALL, "image_size": 16, "patch_size": 8, **changes},
    )


def test_a_part_starts_the_same_whatever_else_is_built_and_the_random_state_is_left_alone() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    both, one = build_encoders({"film": tower(), "smear": tower()}, seed=4), build_encoders({"smear": tower()}, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(t, both["smear"].state_dict()[n]) for n, t in one["smear"].state_dict().items())
    assert not all(torch.equal(t, both["film"].state_dict()[n]) for n, t in one["smear"].state_dict().items()), (
        "two parts with the same weights"
    )
    assert build_seeded(1, "a", lambda: torch.rand(1)) != build_seeded(2, "a", lambda: torch.rand(1))


def test_a_partly_trained_module_is_trained() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).requires_grad_(False)
    assert not is_trained(model)
    model[1].bias.requires_grad_(True)
    assert is_trained(model) and not is_trained(model[0])


def test_an_encoder_without_a_connector_sends_no_tokens() -> None:
    with_connector = transformers.Config.model_validate(
        {**tower().model_dump(), "connector": {"kind": "resampler", "tokens": 5}}
    )
    assert tokens_of({"film": with_connector, "smear": tower()}) == {"film": 5}
