"""What the study of DINOv2 compares, as its recipe sets it: a linear layer, adapters in the network, and all of it."""

from __future__ import annotations

import pytest
import torch

from medvlm.core.config import component
from medvlm.core.run import RunFolder
from medvlm.recipe.load import load
from tests.labelled_run import recipe, write_run
from tests.tiny_run import trained, weights

pytestmark = pytest.mark.slow
STEPS, RATE = 3, 1.0e-3
TOWER = {
    "model_type": "dinov2", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2,
    "image_size": 32, "patch_size": 8, "num_channels": 1,
}  # fmt: skip
SEEN = {"size": [32, 32], "channels": 1, "mean": [0.5], "std": [0.5]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Its stages on films with other labels, and `tune` once more without its own rate for the encoder."""
    loaded = load("systems/dinov2_study.yaml").recipe
    stages = [stage.model_dump(mode="json", by_alias=True, exclude_unset=True) for stage in loaded.stages]
    for stage in stages:
        stage |= {"steps": STEPS, "batch": 8, "save_every": 0}
        stage["optim"] |= {"warmup": 0.0, "schedule": "constant"}
    tune = next(stage for stage in stages if stage["name"] == "tune")
    rate = {key: value for key, value in tune["optim"].items() if key != "lr_of"}
    stages.append({**tune, "name": "fast", "optim": rate})
    decoder = loaded.model.decoders["competition"].model_dump(mode="json", exclude_unset=True)
    decoder |= {"classes": ["high", "large"], "answers": "look"}
    model = {
        "encoders": {"film": {"kind": "transformers", "config": TOWER, "preprocess": SEEN}},
        "decoders": {"competition": decoder},
    }
    folder = tmp_path_factory.mktemp("study")
    return trained(write_run(folder, recipe(model=model, stages=stages, evaluate={})), folder / "runs")


def moved(run: RunFolder, stage: str, part: str) -> float:
    """The furthest that a weight has moved since `probe`, or in it."""
    now, before = weights(run, stage), weights(run, "probe")
    return max(float((now[name] - before[name]).abs().max()) for name in before if name.startswith(part))


def test_a_probe_leaves_the_network_as_it_was(run: RunFolder) -> None:
    """As it is before the first stage: what a further stage from nothing would begin with."""
    start = assemble(run, "probe")
    now = weights(run, "probe")
    assert not any(".lora_" in name for name in now)
    assert all(torch.equal(each, now[name]) for name, each in start.items() if name.startswith("encoders."))
    assert any(not torch.equal(each, now[name]) for name, each in start.items() if name.startswith("decoders."))


def assemble(run: RunFolder, name: str) -> dict[str, torch.Tensor]:
    """The weights that the model has before it is trained."""
    config = load(run.recipe).recipe
    stage = next(each for each in config.stages if each.name == name)
    composition = component("compositions", "encoder")
    built = composition.build(composition.prepare(config, run.root, lambda _: None), stage)
    return dict(built.state_dict())


def test_adapters_leave_the_network_as_it_was(run: RunFolder) -> None:
    now, before = weights(run, "adapt"), weights(run, "probe")
    adapted = {name.partition(".lora_")[0].rpartition(".")[2] for name in now if ".lora_B" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "fc1", "fc2"}
    assert all(bool(each.any()) for name, each in now.items() if ".lora_B" in name)
    assert {each.shape[0] for name, each in now.items() if ".lora_A" in name} == {48}
    for name, each in before.items():
        if name.startswith("encoders."):
            layer, _, key = name.rpartition(".")
            assert torch.equal(now[name] if name in now else now[f"{layer}.base_layer.{key}"], each), name


def test_the_whole_network_moves_at_a_hundredth_of_the_rate(run: RunFolder) -> None:
    slow, fast = moved(run, "tune", "encoders."), moved(run, "fast", "encoders.")
    assert 0 < slow <= 1.01 * STEPS * RATE / 100 < fast, (slow, fast)
    assert moved(run, "tune", "decoders.") > RATE
