"""kill -9 at every kind of place in every kind of stage; slow, so `make test-all` runs it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.run import RunFolder
from medvlm.train import checkpoint
from tests.tiny_run import (
    INSTRUCT,
    LANGUAGE,
    STAGES,
    cut_off,
    differing,
    environment,
    recipe,
    samples,
    trace,
    trained,
    weights,
    written,
)
from tests.train.test_save_kills import check_survivors, killed_at_every_moment

pytestmark = pytest.mark.slow

PLACES = [
    (1, "logged"), (2, "logged"), (3, "logged"), (5, "logged"), (6, "logged"),
    (2, "tensors"), (4, "random"), (4, "manifest"), (4, "renamed"), (6, "manifest"), (6, "renamed"), (6, "stage"),
]  # fmt: skip
"""(step, where): before the first checkpoint, between two, at the last step, and within a save: see dying.py."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def undisturbed(runs: Path) -> RunFolder:
    return trained(written(runs / "recipes" / "undisturbed", recipe(name="undisturbed")), runs)


@pytest.mark.parametrize(("step", "at"), PLACES)
@pytest.mark.parametrize("stage", STAGES)
def test_wherever_a_run_is_killed_it_ends_the_same_to_the_last_bit(
    stage: str, step: int, at: str, runs: Path, undisturbed: RunFolder
) -> None:
    name = f"{stage}-{step}-{at}"
    path = written(runs / "recipes" / name, recipe(name=name))
    cut_off(path, runs, stage, step, at)
    run = trained(path, runs)
    for each in STAGES:
        assert trace(run, each) == trace(undisturbed, each)
        assert differing(weights(run, each), weights(undisturbed, each)) == []
    assert not list(run.root.rglob("*.part")) and not list(run.root.rglob("*.bad-*"))
    shutil.rmtree(run.root)


def test_a_run_that_is_killed_again_and_again_ends_the_same(runs: Path, undisturbed: RunFolder) -> None:
    path = written(runs / "recipes" / "often", recipe(name="often"))
    for stage in STAGES:
        for step in (1, 3, 5):
            cut_off(path, runs, stage, step)
    run = trained(path, runs)
    for stage in STAGES:
        assert (
            trace(run, stage) == trace(undisturbed, stage)
            and differing(weights(run, stage), weights(undisturbed, stage)) == []
        )


@pytest.mark.parametrize(
    "trains",
    [["language"], ["encoders", "connectors", "language"]],
    ids=["reading", "the tower below a language model"],
)
def test_stages_without_adapters_end_the_same(trains: list[str], runs: Path) -> None:
    """With tied embeddings; in the second, the tower's pooling head gets no gradient."""
    shows = ["report"] if trains == ["language"] else ["media"]
    model = {
        "encoders": recipe()["model"]["encoders"],
        "language": {
            "kind": "causal",
            "config": {**LANGUAGE, "tie_word_embeddings": True, "attention_dropout": 0.2},
            "vocabulary": 512,
        },
    }
    stage = {**{k: v for k, v in INSTRUCT.items() if k != "lora"}, "trains": trains, "shows": shows}
    name = f"plain-{len(trains)}"
    straight = trained(written(runs / "recipes" / name, recipe(name=name, model=model, stages=[stage])), runs)
    path = written(runs / "recipes" / f"{name}-cut", recipe(name=f"{name}-cut", model=model, stages=[stage]))
    cut_off(path, runs, "instruct", 3)
    run = trained(path, runs)
    assert (
        trace(run, "instruct") == trace(straight, "instruct")
        and differing(weights(run, "instruct"), weights(straight, "instruct")) == []
    )


# --- in the middle of a save -------------------------------------------------------------------------------

SAVING = """
import sys, torch
from pathlib import Path
from torch import nn
from medvlm.train.checkpoint import Keep
from medvlm.train.saver import Saver
from medvlm.train.tensors import tensors_of
torch.manual_seed(0)
model = nn.Sequential(*(nn.Linear(300, 300) for _ in range(8)))
optimizer = torch.optim.AdamW(model.parameters())
with Saver(Path(sys.argv[1]), 0, Keep()) as saver:
    for step in range(1, 10000):
        model(torch.randn(2, 300)).sum().backward()
        optimizer.step()
        saver.save(step, tensors_of(model, {"": optimizer}), {"step": step}, now=sys.argv[2] == "sync")
        print(step if sys.argv[2] == "sync" else step - 1, flush=True)
"""


def kill_while_saving(folder: Path, how: str, after_s: float) -> int:
    """Kills a process that does nothing but save, some time after its third save; returns the last step that it said
    was saved."""
    process = subprocess.Popen(
        [sys.executable, "-c", SAVING, str(folder), how], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    said = [process.stdout.readline() for _ in range(3)]
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    said += process.stdout.read().split()
    process.wait()
    return int(said[-1])


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("seed", range(8))
def test_no_kill_while_saving_leaves_a_torn_checkpoint_under_a_good_name(seed: int, how: str, tmp_path: Path) -> None:
    check_survivors(tmp_path, kill_while_saving(tmp_path, how, random.Random(seed).uniform(0, 0.4)))


def test_hundreds_of_moments_of_a_save(tmp_path: Path) -> None:
    assert killed_at_every_moment(tmp_path, every=60, timeout=3600)["async"] > 200


# --- several processes -------------------------------------------------------------------------------------


def torchrun(path: Path, runs: Path, *overrides: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "medvlm",
        "train",
        str(path),
        "--runs",
        str(runs),
        *overrides,
    ]


def killed_at(path: Path, runs: Path, run: RunFolder, stage: str, step: int) -> None:
    """torchrun and both of its processes are killed as soon as the step is logged."""
    process = subprocess.Popen(
        torchrun(path, runs), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (
        run.metrics.exists() and f'"stage": "{stage}", "step": {step},' in run.metrics.read_text()
    ):
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(ranks) == 2
    process.kill()
    for rank in ranks:
        os.kill(int(rank), signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        time.sleep(0.01)


@pytest.fixture(scope="module")
def long(runs: Path) -> dict[str, Any]:
    """Enough steps that a poll of the log catches the run in the middle."""
    return recipe(stages=[{**INSTRUCT, "steps": 60, "save_every": 5}])


def test_two_ranks_that_are_killed_end_the_same_to_the_last_bit(runs: Path, long: dict[str, Any]) -> None:
    straight_path = written(runs / "recipes" / "two", {**long, "name": "two"})
    subprocess.run(torchrun(straight_path, runs), env=environment(), check=True, capture_output=True, timeout=300)
    path, run, straight = (
        written(runs / "recipes" / "two-cut", {**long, "name": "two-cut"}),
        RunFolder(runs / "two-cut"),
        RunFolder(runs / "two"),
    )
    killed_at(path, runs, run, "instruct", 23)
    assert not (run.stage("instruct") / "stage.json").exists()
    subprocess.run(torchrun(path, runs), env=environment(), check=True, capture_output=True, timeout=300)
    assert (
        trace(run, "instruct") == trace(straight, "instruct")
        and differing(weights(run, "instruct"), weights(straight, "instruct")) == []
    )


def test_another_number_of_ranks_goes_on_with_the_same_samples(runs: Path, long: dict[str, Any]) -> None:
    """Two ranks are killed and one goes on: the order is the one of one rank from the start, dropout is drawn anew."""
    path, run = written(runs / "recipes" / "fewer", {**long, "name": "fewer"}), RunFolder(runs / "fewer")
    killed_at(path, runs, run, "instruct", 23)
    went_on = checkpoint.list_saved_steps(run.stage("instruct"))[-1]
    trained(path, runs)
    one = trained(written(runs / "recipes" / "one", {**long, "name": "one"}), runs)
    assert (
        0 < went_on < 60
        and samples(run, "instruct") == samples(one, "instruct")
        and len(samples(run, "instruct")) == 60
    )
