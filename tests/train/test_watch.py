"""A stalled rank is named, whatever it is stuck in, and no process is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medvlm.train.watch import EXIT_STALLED, Watch, explain_stall
from tests.tiny_run import environment

RANK = """
import ctypes, os, signal, sys, time
from pathlib import Path
from medvlm.train.watch import Watch
folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
stuck, stall_s = sys.argv[4], float(sys.argv[5])
with Watch(folder / "stalled.txt", rank, world, stall_s, ended=lambda why: (folder / "why").write_text(why)) as watch:
    for step in range(3):
        watch.move_to("reads", "align", step + 1)
        time.sleep(0.02)
        watch.move_to("computes", "align", step + 1, [f"key-{rank}-{i}" for i in range(20)])
    print("ready", flush=True)
    if rank == 1 or world == 1:
        if stuck == "asleep": time.sleep(60)
        if stuck == "stopped": os.kill(os.getpid(), signal.SIGSTOP)
        if stuck == "holding the lock": ctypes.PyDLL(None).sleep(60)
        if stuck == "slow":
            for _ in range(20): time.sleep(0.1); watch.tick()
    watch.move_to("exchanges", "align", 3)
    if stuck != "nobody" and stuck != "slow": time.sleep(60)
    else: time.sleep(stall_s * 0.5)
"""


def ended(folder: Path, stuck: str, world: int = 3, stall_s: float = 0.8) -> tuple[list[int], list[str], float]:
    """Exit codes and output by rank, and the time taken."""
    command = [sys.executable, "-c", RANK, str(folder)]
    ranks = [
        subprocess.Popen(
            [*command, str(r), str(world), stuck, str(stall_s)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(world)
    ]
    for process in ranks:
        assert process.stdout and process.stdout.readline() == "ready\n"
    began = time.monotonic()
    try:
        said = [process.communicate(timeout=20)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    return [process.returncode for process in ranks], said, time.monotonic() - began


@pytest.mark.parametrize("stuck", ["asleep", "stopped", "holding the lock"])
def test_the_rank_that_stands_still_is_named_and_all_end(stuck: str, tmp_path: Path) -> None:
    codes, _, seconds = ended(tmp_path, stuck)
    assert codes == [EXIT_STALLED, EXIT_STALLED if stuck == "asleep" else -signal.SIGKILL, EXIT_STALLED] and seconds < 6
    why = (tmp_path / "why").read_text()
    assert (
        "nothing moved for 1 s: rank 1 (process " in why
        and "at stage align, step 3: computes" in why
        and "samples key-1-0, key-1-1" in why
    )
    assert "rank 0" not in why and "rank 2" not in why
    assert ("does not run" in why) == (stuck != "asleep")


def test_ranks_that_move_are_left_alone(tmp_path: Path) -> None:
    codes, said, _ = ended(tmp_path, "nobody")
    assert codes == [0, 0, 0] and said == ["", "", ""]


def test_a_rank_that_is_slow_but_goes_on_is_waited_for(tmp_path: Path) -> None:
    """It takes more than twice stall_s, like a save on a slow disk."""
    codes, said, _ = ended(tmp_path, "slow")
    assert codes == [0, 0, 0] and said == ["", "", ""]


@pytest.mark.parametrize("stuck", ["asleep", "holding the lock"])
def test_a_process_alone_ends_too(stuck: str, tmp_path: Path) -> None:
    """The second is ended by a timer that needs no GIL; only the traceback shows where it was."""
    (code,), (said,), seconds = ended(tmp_path, stuck, world=1)
    assert code == (EXIT_STALLED if stuck == "asleep" else 1) and seconds < 8
    assert ("nothing moved for 1 s: rank 0" in said) == (stuck == "asleep") and "<string>" in said


def test_with_zero_nothing_is_watched(tmp_path: Path) -> None:
    with Watch(tmp_path / "ranks" / "stalled.txt", 0, 1, 0.0) as watch:
        watch.move_to("reads", "align", 1)
    assert not (tmp_path / "ranks").exists()


def place(rank: int, **changes: Any) -> dict[str, Any]:
    return {
        "rank": rank,
        "pid": 40 + rank,
        "host": "node",
        "moves": 9,
        "pulse": 1,
        "stage": "align",
        "step": 4,
        "doing": "computes",
        "waits": True,
        **changes,
    }


def verdict(*after: dict[str, Any]) -> str:
    return explain_stall([{**p, "pulse": p["pulse"] if p.get("dead") else 0} for p in after], list(after), 300)


def test_who_is_behind_counts_more_than_who_waits() -> None:
    why = verdict(place(0), place(1, moves=8, samples=["a", "b"]), place(2, waits=False))
    assert why.startswith(
        "nothing moved for 300 s: rank 1 (process 41 on node) at stage align, step 4: computes, samples a, b (the"
        " others are ahead and wait for it)"
    )


def test_of_ranks_that_are_equally_far_the_one_that_does_not_wait_is_named() -> None:
    why = verdict(place(0), place(1, waits=False, **{"in": "models/vlm.py:12"}), place(2))
    assert (
        "rank 1" in why
        and "computes, in models/vlm.py:12 (it does not wait for the others)" in why
        and "rank 0" not in why
    )


def test_where_all_wait_it_is_the_exchange() -> None:
    assert "no rank is behind, so the communication between them" in verdict(place(0), place(1))


def test_of_very_many_some_are_named() -> None:
    why = verdict(place(0), *(place(rank, moves=1) for rank in range(1, 30)))
    assert "rank 8 " in why and "rank 9 " not in why and "and 21 more" in why


def test_a_dead_process_is_named_before_all_others() -> None:
    assert (
        "rank 2" in (why := verdict(place(0), place(1, moves=2), place(2, dead=True)))
        and "rank 1" not in why
        and "does not run" in why
    )


def test_watching_costs_next_to_nothing(tmp_path: Path) -> None:
    with Watch(tmp_path / "stalled.txt", 0, 1, 60) as watch:
        began = time.perf_counter()
        for step in range(500):
            watch.move_to("computes", "align", step, ["x" * 300] * 8)
        each_s = (time.perf_counter() - began) / 500
    assert each_s < 2e-3 and os.listdir(tmp_path) == ["0.json"]
