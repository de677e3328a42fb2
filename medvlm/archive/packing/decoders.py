"""The packer's pool of decoder processes: samples go in, outcomes come out in the same order.

Every sample gets exactly one outcome, whatever it does to its decoder. A decoder is killed at the time limit, exits at
the memory limit, and is replaced whenever it is gone.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from medvlm.archive.packing.decoder import read_answer, send
from medvlm.archive.packing.stored import Stored
from medvlm.core.card import Card
from medvlm.core.config import list_permitted
from medvlm.core.contracts import BadSample, Deferred, RawSample
from medvlm.core.errors import DataError

Item = RawSample | Deferred | BadSample
Outcome = Stored | DataError

MAX_HELD_BYTES = 256 << 20
"""No sample is handed out while this many decoded bytes wait for an earlier sample; samples already in progress may
exceed it."""
HELD_PER_DECODER = 32
"""Limit on samples that are in progress or wait for an earlier one."""
AHEAD_BYTES = 16 << 10
"""A message up to this size is sent ahead to a busy decoder, so that it need not wait for its next sample: it fits into
the socket buffer. Larger messages go only to an idle decoder, which is reading; otherwise packer and decoder could each
block until the other reads."""
START_SECONDS = 120
STALL_SECONDS = 60
"""Longest pause within an answer that has begun."""


@dataclass(frozen=True)
class Limits:
    """Limits of one decoder. memory_bytes: address space. seconds: time per sample."""

    memory_bytes: int = 2 << 30
    seconds: int = 60


def num_decoders() -> int:
    """The number of CPUs available to this process, at most 32: one packer cannot feed more."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 32)


def start(limits: Limits, theirs: socket.socket) -> subprocess.Popen[bytes]:
    """A decoder process with its end of the connection as standard input."""
    # Not multiprocessing: its spawn imports the main program, and with it perhaps torch, in every process.
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    env = {**os.environ, **ENVIRONMENT, "PYTHONPATH": paths}
    command = [sys.executable, "-m", "medvlm.archive.packing.decoder", str(limits.memory_bytes), str(limits.seconds)]
    return subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=env)


@dataclass(eq=False)
class _Job:
    """message: the pickled item; empty if there is nothing to decode."""

    item: Item
    message: bytes
    outcome: Outcome | None = None
    num_bytes: int = 0
    tries: int = 1


class Decoders:
    """`with Decoders(card, 2, Limits()) as decoders`: the processes live as long as the block."""

    def __init__(self, card: Card, num: int, limits: Limits) -> None:
        self._card, self._limits = card, limits
        self._decoders = [_Decoder(card, limits) for _ in range(num)]
        self._queue: deque[_Job] = deque()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for decoder in self._decoders:
            decoder.end()

    def outcomes(self, items: Iterable[Item]) -> Iterator[tuple[Item, Outcome]]:
        """In the order of the items, which are read lazily. Raises RuntimeError if decoders cannot be started."""
        order: deque[_Job] = deque()
        coming: Iterator[Item] | None = iter(items)
        while coming or order:
            for num_jobs in (0, 1):  # idle decoders first, then those that work on one job
                for decoder in self._decoders:
                    while coming and not self._queue and decoder.has(num_jobs) and self._has_room(order):
                        coming = self._take(coming, order)
                    if (
                        self._queue
                        and decoder.has(num_jobs)
                        and (not num_jobs or len(self._queue[0].message) <= AHEAD_BYTES)
                    ):
                        decoder.give(self._queue.popleft())
            while order and (outcome := order[0].outcome) is not None:
                yield order.popleft().item, outcome
            if not all(decoder.has(0) for decoder in self._decoders):
                self._collect()

    def _has_room(self, order: deque[_Job]) -> bool:
        return (
            len(order) < HELD_PER_DECODER * len(self._decoders) and sum(job.num_bytes for job in order) < MAX_HELD_BYTES
        )

    def _take(self, items: Iterator[Item], order: deque[_Job]) -> Iterator[Item] | None:
        """The next item; None when there are no more."""
        item = next(items, None)
        if item is None:
            return None
        if isinstance(item, BadSample):
            order.append(_Job(item, b"", DataError(item.reason)))
        else:
            order.append(job := _Job(item, pickle.dumps(item)))
            self._queue.append(job)
        return items

    def _collect(self) -> None:
        """Waits until a decoder answers or exceeds its time limit."""
        ends_at = min(decoder.ends_at for decoder in self._decoders)
        waiting = select.poll()
        for decoder in self._decoders:
            waiting.register(decoder.connection, select.POLLIN)
        ready = {descriptor for descriptor, _ in waiting.poll(max(ends_at - time.monotonic(), 0) * 1000)}
        for place, decoder in enumerate(self._decoders):
            if decoder.connection.fileno() in ready:
                gone = decoder.take()
            elif time.monotonic() >= decoder.ends_at:
                gone = _SLOW
            else:
                continue
            if gone:
                self._replace(place, decoder, gone)

    def _replace(self, place: int, decoder: _Decoder, gone: str) -> None:
        if decoder.is_starting:
            raise RuntimeError("a decoder did not start; what it wrote to the standard error says why")
        exit_code = decoder.end(patience=2 if gone == _DIED else 0)
        self._decoders[place] = _Decoder(self._card, self._limits)
        job = None if gone == _SPENT or not decoder.jobs else decoder.jobs.popleft()
        self._queue.extendleft(reversed(decoder.jobs))  # it had not started these
        if job is None:
            return
        if exit_code == -signal.SIGKILL and gone == _DIED and job.tries == 1:
            # The out-of-memory killer may have hit it because of another process: try once more.
            job.tries += 1
            self._queue.appendleft(job)
        elif gone == _SLOW or exit_code == -signal.SIGALRM:
            job.outcome = DataError(f"took more than {self._limits.seconds} s to decode; reduce or split it")
        else:
            how = (
                f"was killed by {signal.Signals(-exit_code).name}"
                if exit_code < 0
                else f"ended (exit code {exit_code})"
            )
            job.outcome = DataError(f"its decoder {how}")


ENVIRONMENT = {
    "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    # By default glibc returns the memory of every image to the system and faults it in again page by page, which
    # takes half of the time of a 640 x 480 JPEG. With this, blocks up to 32 MiB (its maximum) come from a heap that
    # keeps 256 MiB.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}  # fmt: skip
"""Environment variables of a decoder process."""
_DIED, _SPENT, _SLOW = "died", "spent", "slow"
"""Why a decoder has to be replaced."""
_LONG_SECONDS = 86400.0


class _Decoder:
    """One process. jobs: the job it works on, then those it was sent ahead. ends_at: deadline of the first job."""

    def __init__(self, card: Card, limits: Limits) -> None:
        self._limits = limits
        self.jobs: deque[_Job] = deque()
        self.is_starting, self.ends_at = True, time.monotonic() + START_SECONDS
        self.connection, theirs = socket.socketpair()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", STALL_SECONDS, 0))
        self._process = start(limits, theirs)
        theirs.close()
        self._send(json.dumps(list_permitted()).encode())
        self._send(pickle.dumps(card))

    def has(self, num_jobs: int) -> bool:
        return not self.is_starting and len(self.jobs) == num_jobs

    def give(self, job: _Job) -> None:
        if not self.jobs:
            self.ends_at = time.monotonic() + self._limits.seconds
        self.jobs.append(job)
        self._send(job.message)

    def _send(self, message: bytes) -> None:
        with suppress(OSError):  # it has died: take() will notice
            send(self.connection, message)

    def take(self) -> str:
        """Reads an answer into its job. Returns why the decoder must be replaced; "" if it can continue."""
        try:
            answer = read_answer(self.connection, self._limits.memory_bytes)
        except (EOFError, OSError, ValueError, KeyError, TypeError):
            return _DIED
        if isinstance(answer, dict) and "fault" in answer:
            raise RuntimeError(answer["fault"])
        if isinstance(answer, dict) and "ready" in answer:
            self.is_starting, self.ends_at = False, time.monotonic() + _LONG_SECONDS
            return ""
        job = self.jobs.popleft()
        if isinstance(answer, Stored):
            job.outcome, job.num_bytes = answer, sum(map(len, answer.members.values()))
        else:
            job.outcome = DataError(answer["bad"])
        self.ends_at = time.monotonic() + (self._limits.seconds if self.jobs else _LONG_SECONDS)
        return _SPENT if isinstance(answer, dict) and "spent" in answer else ""

    def end(self, patience: float = 0) -> int:
        """Ends the process and returns its exit code. patience: seconds it gets to exit by itself."""
        self.connection.close()
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
