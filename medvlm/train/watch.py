"""Detects a stalled run, ends it, and names the ranks that the others wait for.

A collective with one missing rank blocks all other ranks silently. So each rank writes what it is doing into a small
file (runs/NAME/ranks/RANK.json, rewritten in place), and a thread writes a pulse while the process is alive. Ranks move
in lockstep, so the threads of the first and the last rank only check their own: if it has not moved for `stall_s`, they
read all files. A rank that has no pulse, is behind, or is not waiting in a collective, is the one that the others wait
for. A process that holds Python's GIL stops its own thread too, and is named by the others. If there are no others, a
timer that needs no GIL (faulthandler) ends it with a traceback.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

EXIT_STALLED = 70
PLACE_BYTES, PULSE_BYTES = 1536, 512
EXCHANGES = ("torch/distributed/", "torch/autograd/")
"""Code in which a thread waits for other ranks: collectives, and the backward pass, which contains some."""
KEYS = 8
"""Maximum number of sample keys, and of ranks, in a message."""


class Watch:
    """Watches one rank during the steps of a stage. With stall_s = 0 it does nothing. ended: called with the reason
    before all ranks exit with EXIT_STALLED.

    verdict: the file that will name the stalled ranks. The files of the ranks are in the same folder. It must not exist
    at the start."""

    def __init__(
        self, verdict: Path, rank: int, world: int, stall_s: float, ended: Callable[[str], Any] = lambda _: None
    ):
        self.verdict, self.folder, self.rank, self.world, self.stall_s, self.ended = (
            verdict,
            verdict.parent,
            rank,
            world,
            stall_s,
            ended,
        )
        self.beat_s = min(5.0, stall_s / 8)
        self.place: dict[str, Any] = {
            "rank": rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "moves": 0,
            "ticks": 0,
        }
        self.pulse, self.leaving = 0, threading.Event()

    def __enter__(self) -> Watch:
        if self.stall_s:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.file = os.open(self.folder / f"{self.rank}.json", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            self.move_to("begins")
            self.thread = threading.Thread(target=self._watch, name="watch", daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.stall_s:
            self.leaving.set()
            self.thread.join()
            faulthandler.cancel_dump_traceback_later()
            os.close(self.file)

    def move_to(self, doing: str, stage: str = "", step: int = 0, samples: Sequence[str] = ()) -> None:
        """Records that this rank starts something else. Every rank calls it equally often. Stage, step and samples stay
        the same until given again."""
        if stage:
            self.place |= {"stage": stage, "step": step, "samples": list(samples[:KEYS])}
        self.place |= {"doing": doing, "moves": self.place["moves"] + 1}
        self._write_place()

    def tick(self) -> None:
        """Records that this rank is making progress in something that takes long. May be called any number of times."""
        self.place["ticks"] += 1
        self._write_place()

    def _write_place(self) -> None:
        if not self.stall_s:
            return
        self.moved = time.monotonic()
        text = json.dumps(self.place)
        os.pwrite(
            self.file,
            (text if len(text) < PLACE_BYTES else json.dumps({**self.place, "samples": []}))
            .ljust(PLACE_BYTES)
            .encode(),
            0,
        )

    def _watch(self) -> None:
        while not self._write_pulse():
            if self.verdict.exists():
                time.sleep(self.beat_s)  # gives the rank that wrote it time to report
                os._exit(EXIT_STALLED)
            if self.rank in (0, self.world - 1) and time.monotonic() - self.moved > self.stall_s:
                self._judge()

    def _write_pulse(self) -> bool:
        """Writes that this process is alive, and waits. Returns whether the stage has ended meanwhile."""
        self.pulse += 1
        os.pwrite(
            self.file, json.dumps({"pulse": self.pulse, **find_whereabouts()}).ljust(PULSE_BYTES).encode(), PLACE_BYTES
        )
        # Fires late, so that ranks with a better diagnosis report first.
        faulthandler.dump_traceback_later(1.5 * self.stall_s + 4 * self.beat_s, exit=True, file=2)
        return self.leaving.wait(self.beat_s)

    def _judge(self) -> None:
        before = [self._read(rank) for rank in range(self.world)]
        if any(self._write_pulse() for _ in range(3)):
            return
        after = [self._read(rank) for rank in range(self.world)]
        if any(
            (old["moves"], old["ticks"]) != (new["moves"], new["ticks"]) for old, new in zip(before, after, strict=True)
        ):
            self.moved = time.monotonic()  # another rank is making progress in something that takes long
            return
        try:
            with self.verdict.open("x") as file:
                file.write(why := explain_stall(before, after, self.stall_s))
        except FileExistsError:
            return  # the other watching rank has reported it
        print(f"medvlm: {why}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=2)
        self.ended(why)
        self._kill_frozen(before, after)
        os._exit(EXIT_STALLED)

    def _read(self, rank: int) -> dict[str, Any]:
        """What a rank last wrote, with its `pulse`."""
        try:
            data = (self.folder / f"{rank}.json").read_bytes().decode(errors="replace")
            return {
                "rank": rank,
                "pulse": 0,
                **json.loads(data[:PLACE_BYTES]),
                **json.loads(data[PLACE_BYTES:] or "{}"),
            }
        except (OSError, ValueError, RecursionError):
            return {"rank": rank, "pulse": 0, "moves": 0, "ticks": 0, "doing": "not begun"}

    def _kill_frozen(self, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
        """Kills processes without a pulse. A stopped process reacts to no other signal, and torchrun would wait half a
        minute for it."""
        for old, new in zip(before, after, strict=True):
            if (
                new["pulse"] == old["pulse"]
                and new.get("host") == self.place["host"]
                and new["rank"] != self.rank
                and "pid" in new
            ):
                os.kill(new["pid"], signal.SIGKILL)


def find_whereabouts() -> dict[str, Any]:
    """The current line of the main thread, and whether it is waiting for other ranks there."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    files: list[tuple[str, int]] = []
    while frame is not None and len(files) < 8:
        files.append((frame.f_code.co_filename.replace(os.sep, "/"), frame.f_lineno))
        frame = frame.f_back
    short = ["/".join(name.split("/")[-2:]) + f":{line}" for name, line in files]
    return {"in": " from ".join(short[:2])[:200], "waits": any(part in name for name, _ in files for part in EXCHANGES)}


def explain_stall(before: list[dict[str, Any]], after: list[dict[str, Any]], stall_s: float) -> str:
    """Which ranks have stalled, and why. before, after: what all ranks wrote, at two times."""
    found_text = f"nothing moved for {stall_s:.0f} s"
    remedy = "All ranks end; run the same command again to resume from the last checkpoint"
    ways = (
        (
            "its process does not run: it was stopped, or is busy outside of Python",
            [new for old, new in zip(before, after, strict=True) if new["pulse"] == old["pulse"]],
        ),
        (
            "the others are ahead and wait for it",
            [new for new in after if new["moves"] < max(place["moves"] for place in after)],
        ),
        (
            "it does not wait for the others" if len(after) > 1 else "it is the only rank",
            [new for new in after if not new.get("waits")],
        ),
    )
    for why, found in ways:
        if found:
            more = f"; and {len(found) - KEYS} more" if len(found) > KEYS else ""
            return f"{found_text}: {'; '.join(map(_describe_place, found[:KEYS]))}{more} ({why}). {remedy}"
    place = _describe_place(after[0])
    return (
        f"{found_text}, and no rank is behind, so the communication between them (network, GPU) is at fault. {place},"
        f" like the others. {remedy}"
    )


def _describe_place(place: dict[str, Any]) -> str:
    samples = f", samples {', '.join(place['samples'])}" if place.get("samples") else ""
    line = f", in {place['in']}" if place.get("in") else ""
    return (
        f"rank {place['rank']} (process {place.get('pid', '?')} on {place.get('host', '?')}) at stage"
        f" {place.get('stage', '?')}, step {place.get('step', '?')}: {place['doing']}{line}{samples}"
    )
