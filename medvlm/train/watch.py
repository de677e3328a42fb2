"""Which rank stands still: each says where it is, and when nothing moves the run ends with the names of those it waits
for.

A collective in which one rank is missing blocks all the others without a word. Here each rank writes into a small file
of its own what it does (runs/NAME/ranks/RANK.json, rewritten in place), and a thread beside writes that the process is
alive. Ranks go in step, so the thread of the first and that of the last need only look at their own rank: when it has
not moved for `stall_s`, they read all the files, and whoever is no longer alive, or behind, or not waiting for an
exchange, is what the rest waits for.
A process that holds Python's lock, so that its own threads stand still too, is named by the others; where there are no
others, a timer that needs no lock (faulthandler) ends it with a traceback.
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
"""Where a thread is that waits for other ranks: in a collective, or in the backward pass, which holds some."""
KEYS = 8
"""Sample keys that are named."""


class Watch:
    """Of one rank, around the steps of a stage. With stall_s = 0 it does nothing. ended: is told why, before all ranks
    end with EXIT_STALLED.

    verdict: the file for the names of those that stand still; what ranks do is written beside it. It is gone when the
    ranks begin."""

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
            self.at("begins")
            self.thread = threading.Thread(target=self._look, name="watch", daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.stall_s:
            self.leaving.set()
            self.thread.join()
            faulthandler.cancel_dump_traceback_later()
            os.close(self.file)

    def at(self, doing: str, stage: str = "", step: int = 0, samples: Sequence[str] = ()) -> None:
        """This rank goes on to something else. Every rank calls it alike often; stage, step and samples stay until
        others are given."""
        if stage:
            self.place |= {"stage": stage, "step": step, "samples": list(samples[:KEYS])}
        self.place |= {"doing": doing, "moves": self.place["moves"] + 1}
        self._say()

    def goes_on(self) -> None:
        """What this rank does takes long, but it is doing it: as often as it likes."""
        self.place["ticks"] += 1
        self._say()

    def _say(self) -> None:
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

    def _look(self) -> None:
        while not self._beat():
            if self.verdict.exists():
                time.sleep(self.beat_s)  # the one that wrote it is still speaking
                os._exit(EXIT_STALLED)
            if self.rank in (0, self.world - 1) and time.monotonic() - self.moved > self.stall_s:
                self._judge()

    def _beat(self) -> bool:
        """Says that this process runs, and waits; whether the stage has ended meanwhile."""
        self.pulse += 1
        os.pwrite(
            self.file, json.dumps({"pulse": self.pulse, **whereabouts()}).ljust(PULSE_BYTES).encode(), PLACE_BYTES
        )
        # So late that the others, who know more, speak first.
        faulthandler.dump_traceback_later(1.5 * self.stall_s + 4 * self.beat_s, exit=True, file=2)
        return self.leaving.wait(self.beat_s)

    def _judge(self) -> None:
        before = [self._read(rank) for rank in range(self.world)]
        if any(self._beat() for _ in range(3)):
            return
        after = [self._read(rank) for rank in range(self.world)]
        if any(
            (old["moves"], old["ticks"]) != (new["moves"], new["ticks"]) for old, new in zip(before, after, strict=True)
        ):
            self.moved = time.monotonic()  # another rank does something that takes long
            return
        try:
            with self.verdict.open("x") as file:
                file.write(why := judged(before, after, self.stall_s))
        except FileExistsError:
            return  # the other one that looks has said it
        print(f"medvlm: {why}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=2)
        self.ended(why)
        self._kill_frozen(before, after)
        os._exit(EXIT_STALLED)

    def _read(self, rank: int) -> dict[str, Any]:
        """Where a rank is, with its `pulse`."""
        try:
            data = (self.folder / f"{rank}.json").read_bytes().decode(errors="replace")
            return {
                "rank": rank,
                "pulse": 0,
                **json.loads(data[:PLACE_BYTES]),
                **json.loads(data[PLACE_BYTES:] or "{}"),
            }
        except (OSError, ValueError):
            return {"rank": rank, "pulse": 0, "moves": 0, "ticks": 0, "doing": "not begun"}

    def _kill_frozen(self, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
        """A stopped process heeds no signal but this one, and torchrun would wait half a minute for it."""
        for old, new in zip(before, after, strict=True):
            if (
                new["pulse"] == old["pulse"]
                and new.get("host") == self.place["host"]
                and new["rank"] != self.rank
                and "pid" in new
            ):
                os.kill(new["pid"], signal.SIGKILL)


def whereabouts() -> dict[str, Any]:
    """The line that the main thread is in, ours or a library's, and whether it waits for other ranks there."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    files: list[tuple[str, int]] = []
    while frame is not None and len(files) < 8:
        files.append((frame.f_code.co_filename.replace(os.sep, "/"), frame.f_lineno))
        frame = frame.f_back
    short = ["/".join(name.split("/")[-2:]) + f":{line}" for name, line in files]
    return {"in": " from ".join(short[:2])[:200], "waits": any(part in name for name, _ in files for part in EXCHANGES)}


def judged(before: list[dict[str, Any]], after: list[dict[str, Any]], stall_s: float) -> str:
    """Who stands still, from what all ranks said twice, a while apart."""
    told, again = (
        f"nothing moved for {stall_s:.0f} s",
        "All ranks end; run the same command again to go on from the last checkpoint",
    )
    ways = (
        (
            "its process does not run: it was stopped, or is busy outside of Python",
            [new for old, new in zip(before, after, strict=True) if new["pulse"] == old["pulse"]],
        ),
        (
            "the others are further and wait for it",
            [new for new in after if new["moves"] < max(place["moves"] for place in after)],
        ),
        (
            "it does not wait for the others" if len(after) > 1 else "nothing else goes on",
            [new for new in after if not new.get("waits")],
        ),
    )
    for why, found in ways:
        if found:
            more = f"; and {len(found) - KEYS} more" if len(found) > KEYS else ""
            return f"{told}: {'; '.join(map(_named, found[:KEYS]))}{more} ({why}). {again}"
    return (
        f"{told}, and no rank is behind: it is the exchange between them (network, GPU). {_named(after[0])} as are the"
        f" others. {again}"
    )


def _named(place: dict[str, Any]) -> str:
    samples = f", samples {', '.join(place['samples'])}" if place.get("samples") else ""
    line = f", in {place['in']}" if place.get("in") else ""
    return (
        f"rank {place['rank']} (process {place.get('pid', '?')} on {place.get('host', '?')}) at stage"
        f" {place.get('stage', '?')}, step {place.get('step', '?')}: {place['doing']}{line}{samples}"
    )
