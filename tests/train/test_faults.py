"""Faults during a run: losses that are not finite, a full disk, a lost lease."""

from __future__ import annotations

import json
import math
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvlm.commands import building
from medvlm.core.errors import CheckpointError, DataError
from medvlm.core.run import RunFolder
from medvlm.train import checkpoint
from medvlm.train.engine import Engine
from medvlm.train.log import Log
from medvlm.train.stopping import Preempted
from medvlm.train.storage import TensorReader
from tests.tiny_run import INSTRUCT, recipe, trained, written

STAGE = "instruct"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of runs, so that the data are packed once."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture
def path(runs: Path, request: pytest.FixtureRequest) -> Path:
    name = request.node.name.replace("_", "-")[5:30].strip("-")
    return written(runs / "recipes" / name, recipe(name=name, stages=[{**INSTRUCT, "accumulate": 1}]))


def run_of(path: Path, runs: Path) -> RunFolder:
    return RunFolder(runs / path.parent.name)


def records(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def status(run: RunFolder) -> tuple[str, str]:
    said = json.loads(run.status.read_text())
    return said["status"], said["reason"]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gradients of these steps have no finite norm."""

    def at(*steps: int) -> None:
        clip, calls = Engine.clip, iter(range(1, 100))

        def clipped(self: Engine, max_norm: float, optimizer: str) -> float:
            norm = clip(self, max_norm, optimizer)
            return math.nan if next(calls) in steps else norm

        monkeypatch.setattr(Engine, "clip", clipped)

    return at


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], Any]) -> None:
    """Something happens as soon as a step is logged and the checkpoint of step 2 is on disk."""
    write = Log.write

    def told(self: Log, record: dict[str, Any]) -> None:
        write(self, record)
        if record["step"] == step:
            until = time.monotonic() + 30
            while not (self.path.parent / STAGE / "step-2").exists() and time.monotonic() < until:
                time.sleep(0.01)
            act()

    monkeypatch.setattr(Log, "write", told)


# --- no numbers ----------------------------------------------------------------------------------------------


def test_a_step_without_a_finite_gradient_ends_the_run_and_names_the_samples(
    path: Path, runs: Path, broken: Callable[..., None]
) -> None:
    broken(3)
    with pytest.raises(
        DataError,
        match=(
            r"stage instruct, step 3: loss \d+\.\d+, gradient norm nan; samples: \S+, .*look at these samples; on_nan:"
            r" skip leaves"
        ),
    ):
        trained(path, runs)
    assert status(run_of(path, runs)) == ("failed", "DataError") and checkpoint.list_saved_steps(
        run_of(path, runs).stage(STAGE)
    ) == [2]


def test_such_a_step_is_left_out_where_the_recipe_says_so(path: Path, runs: Path, broken: Callable[..., None]) -> None:
    broken(3)
    run = trained(path, runs, f"stages.{STAGE}.on_nan=skip")
    (skipped,) = (r for r in records(run) if "skipped" in r)
    assert skipped["step"] == 3 and len(skipped["skipped"]) == 8 and skipped["skipped_norm"] == "nan"
    assert [r["step"] for r in records(run) if "loss" in r] == [1, 2, 3, 4, 5, 6]
    folder = run.stage(STAGE) / "step-6"
    assert checkpoint.read_state(folder)["skipped"] == 1
    reader = TensorReader(folder / "tensors")
    count = next(name for name in reader.stored if name.endswith(".step"))
    assert reader.read_tensor(count) == 5, "the optimiser has made one step less"


def test_only_so_many_steps_are_left_out(path: Path, runs: Path, broken: Callable[..., None]) -> None:
    broken(1, 2, 3, 4)
    with pytest.raises(DataError, match=r"step 4: .* 4 steps had no finite loss or gradient, and at most 3 may be"):
        trained(path, runs, f"stages.{STAGE}.on_nan=skip")


# --- a full disk -----------------------------------------------------------------------------------------------


def test_on_a_full_disk_the_last_checkpoint_stays_good_and_the_message_says_so(
    path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save of step 4 fails in the background, and the next step notices it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    at_step(monkeypatch, 3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16384, limits[1])))
    try:
        with pytest.raises(
            CheckpointError,
            match=(
                r"instruct/step-4 was not saved: the disk is full or a quota is used up; the last good checkpoint is"
                r" step-2\. Make room"
            ),
        ):
            trained(path, runs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    run = run_of(path, runs)
    assert status(run) == ("failed", "CheckpointError") and [p.name for p in run.stage(STAGE).iterdir()] == ["step-2"]
    assert not checkpoint.find_damage(run.stage(STAGE) / "step-2") and records(run)[-1]["step"] in (4, 5)
    monkeypatch.undo()
    assert (trained(path, runs).stage(STAGE) / "stage.json").exists(), "with room again, it goes on"


def test_a_log_that_finds_no_room_says_so_too(path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    at_step(monkeypatch, 3, full)
    with pytest.raises(
        CheckpointError, match="the disk is full or a quota is used up; make room and run the same command again"
    ):
        trained(path, runs)
    assert status(run_of(path, runs)) == ("failed", "CheckpointError")


# --- told to stop -----------------------------------------------------------------------------------------------


def test_a_signal_while_the_model_is_built_ends_the_run_as_preempted(
    path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "put_start", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Preempted, match="nothing to save"):
        trained(path, runs)
    assert status(run_of(path, runs)) == ("preempted", "")


# --- what an earlier run left ------------------------------------------------------------------------------------


def test_an_earlier_stall_ends_nobody_and_hides_no_failure(path: Path, runs: Path, broken: Callable[..., None]) -> None:
    run = run_of(path, runs)
    run.stalled.parent.mkdir(parents=True)
    run.stalled.write_text("rank 5")
    broken(2)
    with pytest.raises(DataError):
        trained(path, runs, "engine.stall_s=8")
    assert status(run) == ("failed", "DataError") and not run.stalled.exists()


# --- another run has the folder --------------------------------------------------------------------------------


def test_who_has_lost_the_lease_saves_nothing_more(path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(path, runs)

    def taken_over() -> None:
        (run.root / ".lease").rename(run.root / ".taken")
        (run.root / ".lease").write_text(json.dumps({"id": "other", "host": "node9", "pid": 7}))

    at_step(monkeypatch, 3, taken_over)
    with pytest.raises(CheckpointError, match=r"has lost the run to process 7 on node9; nothing more is saved here"):
        trained(path, runs)
    assert checkpoint.list_saved_steps(run.stage(STAGE)) == [2]
