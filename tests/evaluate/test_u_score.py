"""The U-Score against its formula by hand, and the cost of a network whose operations can be counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medvlm.compositions._cost import TIMED, WARM, measure_cost
from medvlm.core.config import component
from medvlm.core.sample import make_truth
from medvlm.evaluate.protocols import u_score
from medvlm.recipe.load import load

POPULATION = {"iou": [0.6, 0.8], "parameters_m": [1.0, 100.0], "gmacs": [1.0, 100.0], "fps": [20.0, 120.0]}


def test_the_score_is_that_of_the_formula() -> None:
    """IoU 0.7 is half of the way, 10 M parameters and 10 GMACs by their logarithms too, and 45 fps are a quarter."""
    costs = {"parameters_m": 10.0, "gmacs": 10.0, "fps": 45.0}
    efficiency = 3 / (1 / 0.5 + 1 / 0.5 + 1 / 0.25)
    found = u_score.find_u_score(np.array([0.7, 0.8, 0.1]), costs, POPULATION)
    assert found == pytest.approx([2 / (1 / a + 1 / efficiency) for a in (0.5, 1.0, 0.05)])
    dear = {"parameters_m": 1000.0, "gmacs": 0.1, "fps": 500.0}
    assert u_score.find_u_score(np.array([0.9]), dear, POPULATION) == pytest.approx(
        2 / (1 + 1 / (3 / (1 / 0.05 + 1 + 1)))
    )


def test_percentiles_grow() -> None:
    with pytest.raises(ValueError, match="10th percentile before the 90th"):
        u_score.Config(iou=(0.7, 0.6))


def test_rows_are_of_all_images_with_intervals() -> None:
    truth = make_truth("mask", classes=("polyp",), member="0.mask.png", runs="4x4 0,8,8")
    answers = ("4x4 0,8,8", "4x4 0,4,12", "4x4 ")  # IoU 1, one half, 0
    own: dict[str, Any] = {"parameters": 10**7, "flops": 2 * 10**10, "inputs_per_s": 45.0, "population": POPULATION}
    records = [
        {"truth": truth.to_json() | {"task": "mask"}, "answer": answers[n % 3], "shuffled": "4x4 ", "cluster": n, **own}
        for n in range(30)
    ]
    settings = {
        "dataset": "d", "split": "test", "baselines": ["shuffled"], "resamples": 200, "seed": 0, "rewards": None,
    }  # fmt: skip
    rows = {row["metric"]: row for row in u_score.rows_of(records, settings)}
    assert rows["iou"]["value"] == pytest.approx(0.5) and rows["iou"]["n"] == 30
    costs = {"parameters_m": 10.0, "gmacs": 10.0, "fps": 45.0}
    assert {name: rows[name]["value"] for name in costs} == costs
    expected = u_score.find_u_score(np.array([0.5, 0.0]), costs, POPULATION)
    assert rows["u_score"]["value"] == pytest.approx(expected[0], abs=1e-6)
    assert rows["u_score"]["baselines"]["shuffled"] == pytest.approx(expected[1], abs=1e-6)
    bounds = rows["u_score"]["ci"]
    assert bounds is not None and bounds[0] <= rows["u_score"]["value"] <= bounds[1]


def test_operations_are_counted_and_the_mode_is_kept() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16, 5)).train()
    calls = []

    def run() -> None:
        calls.append(net.training)
        net(torch.zeros(1, 3, 4, 4))

    cost = measure_cost(net, run, torch.device("cpu"))
    assert cost.parameters == 3 * 8 * 9 + 8 * 16 * 5 + 5
    assert cost.flops == 2 * (16 * 3 * 8 * 9 + 8 * 16 * 5)
    assert calls == [False] * (1 + WARM + TIMED) and net.training
    assert math.isfinite(cost.inputs_per_s) and cost.inputs_per_s > 0


def test_without_a_term_u_bench_trains_or_judges_otherwise() -> None:
    """The losses of its recipe, and its protocol for a network that costs ten times as much."""
    recipe = load("systems/u_bench.yaml").recipe
    decoder, losses = recipe.model.decoders["polyp"], recipe.stages[0].losses["polyp"]
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.zeros(2, 1, 8, 8, dtype=torch.long)
    labels[..., 2:5, 3:7] = 1

    def learn(chosen: Any) -> tuple[float, torch.Tensor]:
        parts = [(loss.weight, component("objectives.heads", loss.kind), loss) for loss in chosen]
        total = sum(
            factor * by.add_up(loss, logits, labels, decoder) / by.weigh(loss, labels, decoder)
            for factor, by, loss in parts
        )
        return total.item(), torch.autograd.grad(total, logits)[0]

    whole, slope = learn(losses)
    for number in range(2):
        less, other = learn([loss for place, loss in enumerate(losses) if place != number])
        assert less != pytest.approx(whole, rel=1e-5) and (slope - other).norm() > 1e-3 * slope.norm()
    (asked,) = [each for each in recipe.evaluate.protocols if not isinstance(each, str)]
    population = asked.model_dump(include=set(POPULATION))
    costs = {"parameters_m": 10.0, "gmacs": 10.0, "fps": 60.0}
    dear = costs | {"parameters_m": 100.0}
    cheap, expensive = (u_score.find_u_score(np.array([0.65]), each, population)[0] for each in (costs, dear))
    assert 0 < expensive < cheap < 1
