"""Killed while saving: there is always a complete checkpoint to resume from, and never an incomplete one under a final
name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medvlm.train import checkpoint
from tests.tiny_run import ROOT, environment


def check_survivors(folder: Path, said: int) -> int:
    """The step of the newest checkpoint, which is complete and not older than the last save that was reported."""
    newest = checkpoint.find_newest_good(folder, say=pytest.fail)
    assert newest is not None and checkpoint.step_of(newest) >= said, "a checkpoint that was said to be saved is gone"
    assert checkpoint.read_state(newest) == {"step": checkpoint.step_of(newest)}
    return checkpoint.step_of(newest)


def killed_at_every_moment(folder: Path, every: int, timeout: float = 300) -> dict[str, int]:
    """How many moments there were, for saves that training waits for and others; all of them left the old checkpoint or
    the new one, to the last bit."""
    command = [sys.executable, str(ROOT / "tests" / "drills" / "dying_saves.py"), str(folder), str(every)]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout)
    assert ended.returncode == 0, ended.stderr[-2000:]
    deaths, right = json.loads(ended.stdout), checkpoint.read_weights(folder / "first" / "step-1")
    for how, number in deaths.items():
        left = [check_survivors(folder / f"{how}-{n}", said=1) for n in range(number + 1)]
        assert set(left) == {1, 2} and left == sorted(left), (
            "first there is the old one, from some moment on the new one"
        )
        for n, step in enumerate(left):
            found = checkpoint.read_weights(folder / f"{how}-{n}" / f"step-{step}")
            assert all(torch.equal(found[name], tensor) for name, tensor in right.items())
    return deaths  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    deaths = killed_at_every_moment(tmp_path, every=1000)
    assert deaths["sync"] == deaths["async"] > 30, "the same is written in the background, in the same order"
