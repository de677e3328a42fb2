"""What happens to several processes from outside: each ends or goes on as it should, and none stays behind. Slow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.run import RunFolder
from medvlm.train import checkpoint
from tests.tiny_run import INSTRUCT, ROOT, differing, environment, recipe, samples, trace, trained, weights, written

pytestmark = pytest.mark.slow
STAGE = "instruct"
STILL = {**INSTRUCT, "lora": {"rank": 2, "alpha": 4}, "steps": 40, "save_every": 5, "accumulate": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the data packed, and a run without a fault to compare with."""
    folder = tmp_path_factory.mktemp("faults")
    assert Job(folder, "straight").wait() == 0
    return folder


@pytest.fixture
def job(runs: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Starts jobs in the folder of runs, and leaves no process behind, whatever the test says."""
    started: list[Job] = []

    def start(
        fault: str = "none", step: int = 0, *options: str, overrides: tuple[str, ...] = (), fresh: bool = True
    ) -> Job:
        name = f"job-{zlib.crc32(request.node.name.encode()):08x}"
        started.append(Job(runs, name, fault, step, *options, overrides=overrides))
        return started[-1]

    yield start
    for each in started:
        each.kill_all()


class Job:
    """torchrun with two ranks."""

    def __init__(
        self, runs: Path, name: str, fault: str = "none", step: int = 0, *options: str, overrides: tuple[str, ...] = ()
    ):
        self.path, self.run, self.log = (
            runs / "recipes" / name / "recipe.yaml",
            RunFolder(runs / name),
            runs / f"{name}.log",
        )
        written(self.path.parent, recipe(name=name, stages=[STILL]))
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "--signals-to-handle",
            "SIGTERM,SIGINT,SIGUSR1",
            *options,
            str(ROOT / "tests" / "drills" / "faulty.py"),
            str(self.path),
            str(runs),
            fault,
            str(step),
            *overrides,
        ]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, env={**environment(), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}, stdout=log, stderr=log
            )
        self.ranks: set[int] = set()

    def wait(self, seconds: float = 900) -> int:
        return self.process.wait(timeout=seconds)

    def wait_for(self, step: int, seconds: float = 900) -> None:
        until = time.monotonic() + seconds
        while not self.metrics(step):
            assert self.process.poll() is None and time.monotonic() < until, self.said()
            time.sleep(0.01)
        self.ranks |= set(children(self.process.pid))
        assert len(self.ranks) == 2

    def metrics(self, step: int) -> bool:
        return self.run.metrics.exists() and f'"stage": "{STAGE}", "step": {step},' in self.run.metrics.read_text()

    def alive(self) -> list[int]:
        return [rank for rank in self.ranks if Path(f"/proc/{rank}").exists()]

    def said(self) -> str:
        return self.log.read_text()[-4000:]

    def status(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.run.status.read_text())
        return read

    def kill_all(self) -> None:
        for pid in (*children(self.process.pid), *self.alive(), self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()] if tasks.exists() else []


def gone(job: Job, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while job.alive() and time.monotonic() < until:
        time.sleep(0.05)
    return not job.alive()


def check_the_same(job: Job, runs: Path) -> None:
    straight = RunFolder(runs / "straight")
    assert (
        trace(job.run, STAGE) == trace(straight, STAGE)
        and differing(weights(job.run, STAGE), weights(straight, STAGE)) == []
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_torchrun_saves_ends_all_and_the_run_goes_on(number: signal.Signals, runs: Path, job: Any) -> None:
    first = job()
    first.wait_for(7)
    first.process.send_signal(number)
    assert first.wait(120) != 0 and gone(first, 5)
    assert first.status()["status"] == "preempted", first.said()
    step = checkpoint.list_saved_steps(first.run.stage(STAGE))[-1]
    assert step < 40 and not checkpoint.find_damage(first.run.stage(STAGE) / f"step-{step}")
    again = job()
    assert again.wait() == 0, again.said()
    assert again.status()["status"] == "done"
    check_the_same(again, runs)


def test_when_torchrun_is_killed_no_process_stays_and_the_run_goes_on(runs: Path, job: Any) -> None:
    first = job()
    first.wait_for(7)
    first.process.kill()
    assert gone(first, 5), "orphans go on writing"
    again = job()
    assert again.wait() == 0, again.said()
    check_the_same(again, runs)


def test_a_rank_that_is_killed_is_started_again_by_torchrun_and_the_run_ends_the_same(runs: Path, job: Any) -> None:
    only = job("killed", 17, "--max-restarts", "1")
    assert only.wait() == 0, only.said()
    assert "resuming from step 1" in only.said()
    check_the_same(only, runs)


@pytest.mark.parametrize("fault", ["asleep", "stopped", "holding"])
def test_a_rank_that_stands_still_is_named_and_all_end_in_time(fault: str, runs: Path, job: Any) -> None:
    first = job(fault, 12, overrides=("engine.stall_s=4",))
    first.wait_for(11)
    assert first.wait() != 0 and gone(first, 5)
    # Until it is said; how long torchrun then takes to end hangs on what else the machine does.
    assert first.run.status.stat().st_mtime - first.run.metrics.stat().st_mtime < 15
    assert (
        "medvlm: nothing moved for 4 s: rank 1 (process " in (log := first.log.read_text())
        and f"stage {STAGE}, step 12: computes" in log
        and ", samples " in log
    )
    assert (
        first.status()["status"] == "stalled"
        and "rank 1" in first.status()["reason"]
        and "rank 0" not in first.status()["reason"]
    )
    again = job()
    assert again.wait() == 0, again.said()
    check_the_same(again, runs)


def test_a_rank_that_stands_still_is_started_again_with_the_others(runs: Path, job: Any) -> None:
    only = job("stopped", 12, "--max-restarts", "1", overrides=("engine.stall_s=4",))
    assert only.wait() == 0, only.said()
    check_the_same(only, runs)


def test_a_loss_that_is_no_number_on_one_rank_is_skipped_by_all(runs: Path, job: Any) -> None:
    only = job("nan", 9, overrides=(f"stages.{STAGE}.on_nan=skip",))
    assert only.wait() == 0, only.said()
    records = [json.loads(line) for line in only.run.metrics.read_text().splitlines()]
    (skipped,) = (r for r in records if "skipped" in r)
    straight = RunFolder(runs / "straight")
    assert skipped["step"] == 9 and len(skipped["skipped"]) == 8, "the samples of all ranks"
    assert (
        samples(only.run, STAGE) == samples(straight, STAGE)
        and trace(only.run, STAGE)[:8] == trace(straight, STAGE)[:8]
    )


def test_it_ends_all_ranks_where_the_recipe_does_not_say_skip(job: Any) -> None:
    only = job("nan", 9)
    assert only.wait() != 0 and only.status() == {**only.status(), "status": "failed", "reason": "DataError"}
    assert (
        f"medvlm: stage {STAGE}, step 9: loss " in (log := only.log.read_text())
        and "gradient norm nan; samples: " in log
    )


def test_one_process_may_go_on_after_two_and_two_after_one(runs: Path, job: Any) -> None:
    """The same samples; without dropout the same losses to 1e-5."""
    first = job()
    first.wait_for(12)
    first.kill_all()
    trained(first.path, runs, f"stages.{STAGE}.steps=40")
    straight = RunFolder(runs / "straight")
    assert samples(first.run, STAGE) == samples(straight, STAGE)
    left, right = (
        [float.fromhex(numbers["loss"]) for _, _, numbers in trace(run, STAGE)] for run in (first.run, straight)
    )
    assert left == pytest.approx(right, rel=1e-5)
