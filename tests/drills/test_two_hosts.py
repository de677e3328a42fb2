"""Hosts that are lost and come back, and Slurm's script around a real run. Slow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny_run import INSTRUCT, ROOT, environment, recipe, written

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("fault", ["lost", "cut"])
def test_the_host_that_is_left_goes_on_and_the_other_comes_back(fault: str) -> None:
    ended = subprocess.run(
        [sys.executable, ROOT / "tests" / "drills" / "two_hosts.py", fault],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-6000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert found[fault]["same_samples"] and found[fault]["loss_differs_by"] <= 1e-5 and found[fault]["compared"] > 12, (
        found
    )
    assert found[fault]["ended"] == "preempted", found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_slurm_is_asked_to_start_again_what_a_signal_has_stopped(number: signal.Signals, tmp_path: Path) -> None:
    """The script and torchrun are real; srun and scontrol, which only Slurm has, stand in."""
    path = written(tmp_path / "recipe", recipe(name="films", stages=[{**INSTRUCT, "steps": 100_000}]))
    (tmp_path / "bin").mkdir()
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    for name, text in {
        "srun": 'shift; echo $$ > torchrun.pid; SLURM_NODEID=0 exec "$@"',
        "scontrol": 'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" > asked; fi',
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    given = {
        "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_NNODES": "1",
        "GPUS": "2",
        "SLURM_JOB_NODELIST": "here",
        "SLURM_JOB_ID": "41",
    }
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            ["bash", ROOT / "launch" / "slurm.sbatch", path],
            cwd=tmp_path,
            env={**environment(), **given},
            stdout=log,
            stderr=log,
        )
    metrics = tmp_path / "runs" / "films" / "metrics.jsonl"
    while not (metrics.exists() and '"step": 3,' in metrics.read_text()):
        assert job.poll() is None, (tmp_path / "log").read_text()[-4000:]
        time.sleep(0.1)
    os.kill(int((tmp_path / "torchrun.pid").read_text()), number)
    assert job.wait(120) == 1
    status = json.loads((tmp_path / "runs" / "films" / "status.json").read_text())
    assert (status["status"], status["job"]) == ("preempted", "41.0") and (tmp_path / "asked").read_text().split() == [
        "requeue",
        "41",
    ]
    assert list((tmp_path / "runs" / "films" / "instruct").glob("step-*"))
