"""The average of the weights: its values, what gets it, and that it survives a stop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.recipe.load import load
from medvlm.train import checkpoint
from medvlm.train.average import AVERAGE, Average, find_stored
from medvlm.train.consolidate import consolidate
from tests.tiny_run import PAIR, differing, recipe, stop_after, trace, trained, weights, written

DECAY = 0.75
EMA = {**PAIR, "ema": DECAY, "keep_every": 1, "save_every": 1, "validate": {"every": 2, "samples": 8}}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("ema"), recipe(stages=[EMA]))


@pytest.fixture(scope="module")
def run(path: Path) -> RunFolder:
    return trained(path, path.parent / "runs")


def test_the_average_handed_on_is_that_of_the_weights_of_every_step(run: RunFolder, tmp_path: Path) -> None:
    folder = run.stage("pair")
    steps = [find_own(folder / f"step-{step}") for step in range(1, 7)]
    average = checkpoint.read_weights(folder / "step-1", AVERAGE)
    for own in steps[1:]:
        average = {name: DECAY * mean.double() + (1 - DECAY) * own[name].double() for name, mean in average.items()}
    handed_on = weights(run, "pair")
    assert handed_on.keys() == steps[-1].keys() and average.keys() < handed_on.keys() | {"none"}
    for name, mean in average.items():
        torch.testing.assert_close(handed_on[name].double(), mean, rtol=0, atol=1e-6)
    assert differing(handed_on, steps[-1]), "the average is the last weights: the test shows nothing"
    consolidate(folder / "step-6", tmp_path / "whole", say=lambda line: None)
    from safetensors.torch import load_file

    assert not differing(load_file(tmp_path / "whole" / "model.safetensors"), handed_on)


def find_own(folder: Path) -> Mapping[str, torch.Tensor]:
    """The weights that are trained, not their average."""
    reader = checkpoint.TensorReader(folder / "tensors")
    return {n.removeprefix("model."): reader.open_tensor(n) for n in reader.stored if n.startswith("model.")}


def test_the_first_average_is_the_start_moved_once(run: RunFolder) -> None:
    first = checkpoint.read_weights(run.stage("pair") / "step-1", AVERAGE)
    own = find_own(run.stage("pair") / "step-1")
    for name in ("heads.scale.log_scale", "heads.scale.bias"):
        start = {"log_scale": 2.302585, "bias": -10.0}[name.rpartition(".")[2]]
        assert first[name].item() == pytest.approx(DECAY * start + (1 - DECAY) * own[name].item(), rel=1e-6)


def test_a_stopped_stage_resumes_to_the_same_bits(run: RunFolder, path: Path, tmp_path: Path) -> None:
    assert stop_after(path, tmp_path, 3) == 75
    again = trained(path, tmp_path)
    assert trace(run, "pair") == trace(again, "pair")
    assert not differing(weights(run, "pair"), weights(again, "pair"))
    assert validations(run) == validations(again)


def validations(run: RunFolder) -> list[float]:
    records = map(json.loads, run.metrics.read_text().splitlines())
    return [record["validation"]["loss"] for record in records if "validation" in record]


def test_validation_is_of_the_average_and_leaves_the_weights_as_they_were() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model[1].requires_grad_(False)
    average = Average(model)
    assert set(average.state_dict()) == {"0.weight", "0.bias"}
    before = {name: p.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        model[0].weight.add_(1)
    moved = model[0].weight.clone()
    with pytest.raises(ZeroDivisionError), average.stand_in(model):
        assert torch.equal(model[0].weight, before["0.weight"])
        raise ZeroDivisionError
    assert torch.equal(model[0].weight, moved)
    average.follow(model, 0.5)
    torch.testing.assert_close(average.get_parameter("0.weight"), before["0.weight"] + 0.5)


def test_tied_weights_have_one_average_under_both_names() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    average = Average(model)
    assert average.get_parameter("a.weight") is average.get_parameter("b.weight")
    names = ["model.a", "model.b", f"models.{AVERAGE}.a", "models.teacher.a", "optim.state.a.step"]
    assert find_stored(names) == {"a": f"models.{AVERAGE}.a", "b": "model.b"}
    assert find_stored(names, "teacher") == {"a": "models.teacher.a"}


def test_engines_that_cannot_hold_an_average_are_refused_before_training(path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stages\.pair\.ema: weights in bfloat16 cannot hold the small moves"):
        load(path, ["engine.precision=bf16-true"])
    with pytest.raises(RecipeError, match=r"stages\.pair\.ema: averages have not been tried with zero2"):
        load(path, ["engine.kind=zero2"])
