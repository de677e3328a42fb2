"""How many steps epochs are, in numbers and in runs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medvlm.commands.lineage import describe_lineage
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.run import RunFolder
from medvlm.core.stage_config import Sampling, StageConfig
from medvlm.data.epochs import count_steps, find_steps
from medvlm.data.parts import make_parts
from medvlm.data.stream import Stream
from medvlm.preflight.gpus import parse
from medvlm.preflight.plan import plan
from medvlm.preflight.table import format_plan
from medvlm.recipe.load import load, validate
from tests.tiny_run import CARD, INSTRUCT, differing, recipe, stop_after, trace, trained, weights, written


class View:
    """A source of `size` samples, numbered from 0; of two sites, which have a quarter and the rest."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def locate(self, i: int) -> tuple[str, int]:
        return "train", i

    def groups(self, by: str) -> dict[str, View]:
        return {"a": View(self.size // 4), "b": View(self.size - self.size // 4)}


def stage(batch: int, mix: dict[str, float], **settings: Any) -> StageConfig:
    return StageConfig(kind="supervised", name="tell", mix=mix, trains=("language",), batch=batch, **settings)


def counted(sizes: dict[str, int], config: StageConfig) -> tuple[StageConfig, Stream]:
    views: Any = {name: View(size) for name, size in sizes.items()}
    stream = Stream(make_parts(views, config.mix, config.sampling, {}, config.name), 0, stage=config.name)
    return count_steps(config, stream), stream


@pytest.mark.parametrize(
    ("epochs", "size", "batch", "steps"),
    [
        (3, 100, 10, 30),
        (1, 105, 10, 10),  # 5 samples of the epoch are not used
        (2, 105, 10, 21),
        (0.5, 100, 10, 5),
        (0.29, 100, 1, 29),  # in floating point 28.999...
        (1, 7, 32, 1),  # fewer samples than one batch
        (5, 7, 32, 1),
        (10, 7, 32, 2),
    ],
)
def test_epochs_are_whole_steps_and_at_least_one(epochs: float, size: int, batch: int, steps: int) -> None:
    assert find_steps(epochs, size, batch) == steps


def test_an_epoch_of_one_source_is_every_sample_once() -> None:
    config, stream = counted({"a": 40}, stage(8, {"a": 1}, epochs=2))
    assert config.steps == 10 and config.length == "2 epochs, 10 steps of 8"
    assert set(Counter(stream.place(p).index for p in range(80)).values()) == {2}


@pytest.mark.parametrize(
    ("sampling", "used"),
    [
        ({}, (80, 80)),
        ({"temperature": 1}, (40, 120)),
        ({"temperature": 2}, (59, 101)),  # 1 : sqrt(3), within a cycle of 1000
        ({"balance": {"a": "site"}}, (80, 80)),
        ({"epochs": {"a": 1}}, (40, 120)),
    ],
)
def test_an_epoch_of_a_mix_is_as_many_samples_as_its_sources_have(sampling: Any, used: tuple[int, int]) -> None:
    config, stream = counted({"a": 40, "b": 120}, stage(8, {"a": 1, "b": 1}, epochs=1, sampling=Sampling(**sampling)))
    assert config.steps == 20
    assert tuple(n for n, _ in stream.used(160).values()) == pytest.approx(
        used, abs=5 if "temperature" in sampling else 0
    )


def test_epochs_beyond_those_of_sampling_are_refused() -> None:
    limits = Sampling(temperature=1, epochs={"a": 2, "b": 2})
    assert counted({"a": 40, "b": 120}, stage(8, {"a": 1, "b": 1}, epochs=2, sampling=limits))[0].steps == 40
    with pytest.raises(RecipeError) as refused:
        counted({"a": 40, "b": 120}, stage(8, {"a": 1, "b": 1}, epochs=3, sampling=limits))
    assert str(refused.value) == (
        "stages.tell.epochs: 3 epochs of 160 samples are 60 steps of 8 samples are 480, and sampling.epochs allows 320;"
        " use at most 2 epochs, or raise sampling.epochs"
    )
    few = Sampling(epochs={"a": 1})
    with pytest.raises(
        RecipeError, match=r"1 steps of 32 samples are 32, and sampling.epochs allows 7; use at most 1 e"
    ):
        counted({"a": 7}, stage(32, {"a": 1}, epochs=1, sampling=few))


EPOCHS = {key: value for key, value in INSTRUCT.items() if key != "steps"} | {"epochs": 1.3, "save_every": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("epochs")


@pytest.fixture(scope="module")
def run(folder: Path) -> RunFolder:
    """Trained in epochs."""
    return trained(written(folder, recipe(name="epochs", stages=[EPOCHS])), folder / "runs")


def test_a_run_in_epochs_is_the_run_of_their_steps(folder: Path, run: RunFolder) -> None:
    """And its identity is that of the settings, in which there are no steps."""
    done = json.loads((run.stage("instruct") / "stage.json").read_text())
    steps = find_steps(1.3, json.loads(run.lineage.read_text())["sources"]["films"]["counts"]["train"], 8)
    assert done["step"] == done["steps"] == steps > 6
    path = written(folder / "steps", recipe(name="steps", stages=[{**INSTRUCT, "steps": steps}]))
    same = trained(path, folder / "runs")
    assert trace(same, "instruct") == trace(run, "instruct")
    assert not differing(weights(same, "instruct"), weights(run, "instruct"))
    assert json.loads((same.stage("instruct") / "stage.json").read_text())["identity"] != done["identity"]
    again = trained(folder / "recipe.yaml", folder / "runs")  # nothing is trained again
    assert json.loads((again.stage("instruct") / "stage.json").read_text()) == done
    assert any(f"{steps} steps" in line for line in describe_lineage(str(run.root)).lines)


def test_a_run_in_epochs_goes_on_where_it_was(folder: Path, run: RunFolder) -> None:
    path = written(folder / "stopped", recipe(name="stopped", stages=[EPOCHS]))
    assert stop_after(path, folder / "runs", 3) == 75
    stopped = trained(path, folder / "runs")
    assert trace(stopped, "instruct") == trace(run, "instruct")
    assert not differing(weights(stopped, "instruct"), weights(run, "instruct"))


def test_a_checkpoint_of_other_steps_is_not_resumed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another release counted the same samples in another way."""
    path = written(folder / "recounted", recipe(name="recounted", stages=[EPOCHS]))
    assert stop_after(path, folder / "runs", 3) == 75
    monkeypatch.setattr("medvlm.data.epochs.find_steps", lambda epochs, size, batch: 50)
    with pytest.raises(CheckpointError, match=r"instruct/step-\d was trained with other settings"):
        trained(path, folder / "runs")


def test_plan_and_validate_say_epochs_and_their_steps_as_far_as_they_are_known(folder: Path, run: RunFolder) -> None:
    path = folder / "recipe.yaml"
    assert any("instruct: supervised, 1.3 epochs in steps of 8 from films" in line for line in validate(path))
    steps = json.loads((run.stage("instruct") / "stage.json").read_text())["steps"]
    known = plan(load(path), folder / "runs", parse("a100:1"))
    assert known.stages[0].steps == steps and f"1.3 epochs, {steps} steps of 8," in format_plan(known)
    assert "number of steps" not in format_plan(known)
    unpacked = plan(load(path), folder / "elsewhere", parse("a100:1"))
    assert "number of steps: estimated, because the data are not packed yet" in format_plan(unpacked)
    assert unpacked.stages[0].steps == pytest.approx(steps, abs=3)


def test_what_is_not_there_is_not_counted(folder: Path) -> None:
    card = {**CARD, "access": "credentialed", "terms": "None."}
    path = written(folder / "absent", recipe(name="absent", stages=[EPOCHS]), card)
    text = format_plan(plan(load(path), folder / "nowhere", parse("a100:1")))
    assert "1.3 epochs, steps of 8," in text and "number of steps: not known before the data are packed" in text
    assert "for all steps" not in text and "\ntime:" not in text


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["stages.instruct.steps=5"], "stages.instruct.epochs: the stage has `steps` too"),
        (["stages.instruct.epochs=null"], "stages.instruct: expected either `steps` or `epochs`, found neither"),
        (["stages.instruct.epochs=0"], "stages.instruct.epochs: expected more than 0, found 0"),
        (["stages.instruct.epochs=null", "stages.instruct.steps=0"], "stages.instruct.steps: expected more than 0"),
    ],
)
def test_a_stage_has_either_steps_or_epochs(folder: Path, overrides: list[str], says: str) -> None:
    path = written(folder / "messages", recipe(stages=[EPOCHS]))
    with pytest.raises(RecipeError) as refused:
        load(path, overrides)
    assert says in str(refused.value)
    assert (
        load(path, ["stages.instruct.epochs=null", "stages.instruct.steps=5"]).recipe.stages[0].length == "5 steps of 8"
    )


def test_recipes_with_steps_keep_their_hash(folder: Path) -> None:
    """Neither key is in the hash of a recipe that does not have it."""
    plain = load(written(folder / "hash", recipe(stages=[INSTRUCT]))).resolve()["stages"][0]
    assert "epochs" not in plain and plain["steps"] == INSTRUCT["steps"]
    assert "steps" not in load(written(folder / "hash", recipe(stages=[EPOCHS]))).resolve()["stages"][0]
