"""The rate as a function of the step, and which parameters get which rate and decay."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.checkpoint._nested_dict import flatten_state_dict

from medvlm.core.errors import RecipeError
from medvlm.core.stage_config import Optim
from medvlm.models.parts import matches
from medvlm.train.optim import compute_rate_factor, make_optimizer, set_rate
from medvlm.train.tensors import load_tensors, tensors_of


def factors(schedule: str, steps: int, warmup: float) -> list[float]:
    return [
        compute_rate_factor(Optim.model_validate({"schedule": schedule, "warmup": warmup}), step, steps)
        for step in range(steps)
    ]


def test_the_rate_climbs_in_equal_steps_and_reaches_its_height_with_the_last_of_them() -> None:
    assert factors("constant", 10, 0.3) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1])
    assert factors("constant", 10, 0.21)[:3] == pytest.approx([1 / 3, 2 / 3, 1]), "a part of a step counts as one"


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert factors("linear", 4, 0) == pytest.approx([1, 0.75, 0.5, 0.25])


def test_a_cosine_falls_from_one_through_a_half_towards_zero() -> None:
    assert factors("cosine", 4, 0) == pytest.approx([1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)])
    after = factors("cosine", 105, 5 / 105)
    assert (
        after[5] == 1
        and after[55] == pytest.approx(0.5)
        and after[-1] == pytest.approx(0.5 * (1 + math.cos(0.99 * math.pi)))
    )


def test_it_is_the_schedule_of_torch() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    stock = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        stock.step()
    assert factors("cosine", 20, 0) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_short_stages_have_a_rate_above_zero_at_every_step(schedule: str, steps: int) -> None:
    assert all(0 < f <= 1 for f in factors(schedule, steps, 0.05))


def model() -> nn.Module:
    made = nn.ModuleDict(
        {
            "encoders": nn.ModuleDict({"film": nn.Linear(3, 4)}),
            "language": nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
            "heads": nn.Linear(4, 2),
        }
    )
    made["heads"].requires_grad_(False)
    return made


def settings_of(optimizer: torch.optim.Optimizer, made: nn.Module) -> dict[str, tuple[float, float]]:
    """Parameter -> (rate, decay)."""
    by_id: dict[int, Any] = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(by_id) == sum(len(g["params"]) for g in optimizer.param_groups), "a parameter is in two groups"
    return {n: by_id[id(p)] for n, p in made.named_parameters() if id(p) in by_id}


def test_every_trained_parameter_has_its_rate_and_only_matrices_decay() -> None:
    made = model()
    optim = Optim(lr=0.5, weight_decay=0.1, lr_of={"encoders": 0.01, "language.0": 2.0}, schedule="constant", warmup=0)
    optimizer = make_optimizer(made, optim, matches, "pair")
    assert set_rate(optimizer, optim, step=3, steps=10) == 0.5
    assert settings_of(optimizer, made) == {
        "encoders.film.weight": (0.005, 0.1),
        "encoders.film.bias": (0.005, 0.0),
        "language.0.weight": (1.0, 0.1),
        "language.0.bias": (1.0, 0.0),
        "language.1.weight": (0.5, 0.0),
        "language.1.bias": (0.5, 0.0),
    }


@pytest.mark.parametrize("key", ["lr_of", "rests"])
def test_a_rate_for_nothing_that_is_trained_is_refused(key: str) -> None:
    with pytest.raises(RecipeError, match=rf"stages.pair.optim.{key}: 'heads' matches no trained parameter"):
        make_optimizer(model(), Optim.model_validate({key: {"heads": 0.1}}), matches, "pair")


def test_a_module_rests_for_its_share_of_the_steps() -> None:
    """As the last layer of DINO, by a rate of 0: its moments follow, its weights and decay do not."""
    made = model()
    optim = Optim(lr=0.5, weight_decay=0.1, rests={"language.0": 0.3}, schedule="constant", warmup=0)
    optimizer, rates = make_optimizer(made, optim, matches, "pair"), []
    for step in range(5):
        set_rate(optimizer, optim, step, steps=10)
        found = settings_of(optimizer, made)
        rates.append(found["language.0.weight"][0])
        assert found["encoders.film.weight"] == (0.5, 0.1)
        before = made["language"][0].weight.clone()  # type: ignore[index]
        made["language"](made["encoders"]["film"](torch.ones(2, 3))).square().sum().backward()  # type: ignore[index]
        optimizer.step()
        assert torch.equal(before, made["language"][0].weight) == (step < 3)  # type: ignore[index]
    assert rates == [0, 0, 0, 0.5, 0.5]


def test_weight_decay_goes_to_its_end_along_half_a_cosine() -> None:
    made = model()
    optim = Optim(lr=0.5, weight_decay=0.04, weight_decay_end=0.4)
    optimizer, found = make_optimizer(made, optim, matches, "pair"), []
    for step in range(11):
        set_rate(optimizer, optim, step, steps=11)
        of_all = settings_of(optimizer, made)
        found.append(of_all["encoders.film.weight"][1])
        assert of_all["encoders.film.bias"][1] == 0
    expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * np.arange(11) / 10))  # cosine_scheduler of DINO's code
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_decay_that_begins_at_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="weight_decay is 0"):
        Optim(weight_decay=0.0, weight_decay_end=0.4)


def test_moments_in_8_bits_step_almost_as_adamw_and_come_back_from_a_checkpoint() -> None:
    """Only the larger matrix: below 4,096 elements bitsandbytes keeps 32 bits."""
    pytest.importorskip("bitsandbytes")

    def made(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 3))
        return model, make_optimizer(model, Optim.model_validate({"kind": kind, "lr": 1e-2}), matches, "align")

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        model(torch.randn(8, 64, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    (small, eight), (large, plain) = made("adamw8bit"), made("adamw")
    for seed in range(3):
        step(small, eight, seed)
        step(large, plain, seed)
    assert eight.state[small[0].weight]["state1"].dtype == torch.uint8  # type: ignore[index]
    torch.testing.assert_close(small[0].weight, large[0].weight, rtol=0, atol=0.01)  # type: ignore[index]

    kept = copy.deepcopy(tensors_of(small, {"": eight}))
    step(small, eight, 3)
    other, resumed = made("adamw8bit")
    flat, _ = flatten_state_dict(kept)
    load_tensors(other, {"": resumed}, lambda wanted: _fill(wanted, kept), flat.keys())
    step(other, resumed, 3)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), other.parameters(), strict=True))


def _fill(wanted: dict[str, Any], kept: dict[str, Any]) -> None:
    """As torch.distributed.checkpoint does: tensors in place, other values replaced."""
    for key, value in wanted.items():
        if isinstance(value, dict):
            _fill(value, kept[key])
        elif torch.is_tensor(value):
            value.copy_(kept[key])
        else:
            wanted[key] = kept[key]


def test_layers_have_the_rates_of_timms_layer_decay() -> None:
    """timm.optim.param_groups_layer_decay. The norm behind the last block has the rate of that block there, and the
    whole rate in MAE's code, as here."""
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    for net, args in (("vit_tiny_patch16_224", {"depth": 4, "embed_dim": 32, "num_heads": 2}), ("resnet26", {})):
        tower = timm.create_model(net, num_classes=10, **args)
        model = nn.Module()
        model.encoders = nn.ModuleDict({"film": tower})
        model.heads = nn.ModuleDict({"film": nn.Linear(4, 4)})
        ids = {id(p): name for name, p in model.named_parameters()}
        expected = {
            ids[id(p)]: group["lr_scale"]
            for group in param_groups_layer_decay(tower, weight_decay=0.1, layer_decay=0.65)
            for p in group["params"]
            if not ids[id(p)].startswith("encoders.film.norm.")
        }
        optimizer = make_optimizer(model, Optim(lr=1.0, layer_decay=0.65), matches, "fit")
        factors = {ids[id(p)]: group["factor"] for group in optimizer.param_groups for p in group["params"]}
        assert {name: factors.pop(name) for name in expected} == pytest.approx(expected)
        assert set(factors.values()) == {1.0} and min(expected.values()) < 0.2


def test_layer_decay_multiplies_the_factors_of_modules_and_needs_layers() -> None:
    block = nn.Sequential(nn.Linear(2, 2))
    model = nn.ModuleDict({"tower": nn.ModuleDict({"a": nn.Sequential(block, copy.deepcopy(block))})})
    optimizer = make_optimizer(model, Optim(layer_decay=0.5, lr_of={"tower": 0.1}), matches, "fit")
    assert sorted({group["factor"] for group in optimizer.param_groups}) == pytest.approx([0.025, 0.05])
    with pytest.raises(RecipeError, match=r"stages\.fit\.optim\.layer_decay: nothing that is trained has repeated"):
        make_optimizer(nn.Linear(2, 2), Optim(layer_decay=0.5), matches, "fit")
