"""A third-party stage with two optimizers and an average of its weights, configured in the recipe alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.recipe.load import load
from medvlm.train import checkpoint
from tests.tiny_run import INSTRUCT, differing, recipe, stop_after, trace, trained, written

STAGE = {
    **INSTRUCT,
    "kind": "tests.stages.averaged",
    "steps": 4,
    "save_every": 1,
    "keep_every": 1,
    "adapters": {"of": ["lora"], "lr": 1.0e-3, "schedule": "linear"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own-updates")


def path_of(folder: Path, name: str, **changes: Any) -> Path:
    return written(folder / name, recipe(name=name, plugins=["tests"], stages=[{**STAGE, **changes}]))


@pytest.fixture(scope="module")
def straight(folder: Path) -> RunFolder:
    return trained(path_of(folder, "straight"), folder / "runs")


def averages(run: RunFolder) -> list[dict[str, torch.Tensor]]:
    return [checkpoint.read_weights(run.stage("instruct") / f"step-{step}", "average") for step in (1, 2, 3, 4)]


def test_the_average_follows_the_weights(straight: RunFolder) -> None:
    steps = [checkpoint.read_weights(straight.stage("instruct") / f"step-{step}") for step in (1, 2, 3, 4)]
    found = averages(straight)
    name = next(name for name in steps[0] if name.endswith("lora_B.default.weight"))
    expected = torch.zeros_like(steps[0][name])  # an adapter's B starts at zero
    for average, now in zip(found, steps, strict=True):
        expected = 0.5 * expected + 0.5 * now[name]
        torch.testing.assert_close(average[name], expected, rtol=1e-6, atol=1e-9)
    assert expected.abs().max() > 0


def test_each_optimizer_has_its_own_rate_and_norm(straight: RunFolder) -> None:
    rates = [
        (float.fromhex(numbers["lr"]), float.fromhex(numbers["lr/adapters"])) for *_, numbers in steps_of(straight)
    ]
    # Of four steps one warms up (5 %, rounded up); then a half cosine, and a line.
    assert [rate for _, rate in rates] == pytest.approx([1e-3, 1e-3, 2e-3 / 3, 1e-3 / 3])
    assert [rate for rate, _ in rates] == pytest.approx([1e-2, 1e-2, 7.5e-3, 2.5e-3])
    assert all({"grad_norm/adapters", "distance"} <= numbers.keys() for *_, numbers in steps_of(straight))


def steps_of(run: RunFolder) -> list[tuple[int, str, dict[str, str]]]:
    return trace(run, "instruct")


@pytest.mark.slow
def test_a_stop_in_mid_stage_changes_nothing(folder: Path, straight: RunFolder) -> None:
    path = path_of(folder, "stopped")
    assert stop_after(path, folder / "runs", 1) == 75
    run = trained(path, folder / "runs")
    assert steps_of(run) == steps_of(straight)
    assert all(differing(a, b) == [] for a, b in zip(averages(run), averages(straight), strict=True))


@pytest.mark.parametrize(
    ("changes", "override", "why"),
    [
        ({}, "engine.kind=zero2", r"optimizers of its own \(adapters\), but zero2 supports only one; use"),
        ({"adapters": {"lr": 1.0e-3}}, "seed=1", r"adapters\.of: is missing"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, Any], override: str, why: str, folder: Path) -> None:
    with pytest.raises(RecipeError, match=why):
        load(path_of(folder, "refused", **changes), [override])


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (["language.*.nothing"], r"stages\.instruct: optimizer adapters: 'language\.\*\.nothing' matches no trained"),
        (["lora", "encoders"], r"stages\.instruct: optimizer adapters: 'encoders' matches no trained parameter"),
    ],
)
def test_an_optimizer_that_steps_nothing_is_refused(of: list[str], why: str, folder: Path) -> None:
    path = path_of(folder, "nothing", adapters={"of": of, "lr": 1.0e-3})
    with pytest.raises(RecipeError, match=why):
        trained(path, folder / "runs")
