"""One run at a time: a living owner keeps the folder, a dead one is replaced at once, and a silent one on another
machine after a while."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.errors import CheckpointError
from medvlm.train import lease
from medvlm.train.lease import Lease


def quiet(text: str) -> None:
    pass


def left_behind(folder: Path, **changes: Any) -> dict[str, Any]:
    """The file of an owner that ended without removing it."""
    owner = {**Lease(folder).me, "id": "another", "beats": 3, **changes}
    (folder / ".lease").write_text(json.dumps(owner))
    return owner


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_is_refused_as_long_as_the_first_has_it(tmp_path: Path) -> None:
    with Lease(tmp_path / "run") as first:
        with (
            pytest.raises(
                CheckpointError, match=rf"run: another process is training this run \(process {os.getpid()} on "
            ),
            Lease(tmp_path / "run"),
        ):
            pass
        first.check()
    with Lease(tmp_path / "run") as second:
        second.check()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("left", ["dead", "reused number", "torn", "empty"])
def test_what_a_dead_owner_left_is_taken_at_once(left: str, tmp_path: Path) -> None:
    if left in ("torn", "empty"):
        (tmp_path / ".lease").write_text('{"id": "an' if left == "torn" else "")
    else:
        left_behind(tmp_path, **({"pid": ended_process()} if left == "dead" else {"began": "1"}))
    began = time.monotonic()
    with Lease(tmp_path, say=pytest.fail) as mine:
        mine.check()
    assert time.monotonic() - began < 2


def test_an_owner_that_is_killed_has_none(tmp_path: Path) -> None:
    """A zombie process is dead too."""
    code = (
        "import sys, time; from pathlib import Path; from medvlm.train.lease import Lease;"
        f" Lease(Path({str(tmp_path)!r})).__enter__(); print(1, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline()
    with pytest.raises(CheckpointError), Lease(tmp_path):
        pass
    process.kill()
    time.sleep(0.2)
    with Lease(tmp_path) as mine:
        mine.check()
    process.wait()


def test_an_owner_on_another_machine_is_dead_when_it_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    monkeypatch.setattr(lease, "STALE_S", 0.6)
    left_behind(tmp_path, machine="elsewhere", host="node7")
    said: list[str] = []
    with Lease(tmp_path, say=said.append) as mine:
        mine.check()
    assert len(said) == 1 and "was left by process" in said[0] and "on node7; waiting up to" in said[0]


def test_an_owner_on_another_machine_that_speaks_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    monkeypatch.setattr(lease, "STALE_S", 5.0)
    owner = left_behind(tmp_path, machine="elsewhere", host="node7")
    later = threading.Timer(0.3, lambda: (tmp_path / ".lease").write_text(json.dumps({**owner, "beats": 4})))
    later.start()
    with (
        pytest.raises(CheckpointError, match=r"another process is training this run \(process \d+ on node7\)"),
        Lease(tmp_path, say=quiet),
    ):
        pass
    later.join()


def test_who_was_silent_for_too_long_learns_that_the_run_is_lost_and_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    with Lease(tmp_path) as slow:
        (tmp_path / ".lease").rename(tmp_path / "taken")
        other = left_behind(tmp_path, host="node8", pid=77)
        with pytest.raises(
            CheckpointError, match=r"has lost the run to process 77 on node8; nothing more is saved here"
        ):
            slow.check()
        time.sleep(0.2)
        assert json.loads((tmp_path / ".lease").read_text()) == other, (
            "it still says that it lives, but not in the other's file"
        )
    assert json.loads((tmp_path / ".lease").read_text()) == other


def test_of_many_that_find_a_dead_owner_one_gets_the_run(tmp_path: Path) -> None:
    left_behind(tmp_path, pid=ended_process())
    start, done = threading.Barrier(12), threading.Barrier(12)
    had: list[str] = []

    def attempt() -> None:
        start.wait()
        try:
            with Lease(tmp_path, say=quiet) as mine:
                done.wait()
                mine.check()
                had.append("one")
        except CheckpointError as reason:
            if "has lost" not in str(reason):
                done.wait()

    threads = [threading.Thread(target=attempt) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert had == ["one"]


def test_an_earlier_attempt_of_the_same_job_is_given_time_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job7")
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    first = Lease(tmp_path)
    first.__enter__()
    threading.Timer(0.5, lambda: first.__exit__()).start()
    began = time.monotonic()
    with Lease(tmp_path) as second:
        second.check()
    assert time.monotonic() - began > 0.4
    monkeypatch.setattr(lease, "END_S", 0.3)
    with Lease(tmp_path), pytest.raises(CheckpointError, match="another process is training"), Lease(tmp_path):
        pass
