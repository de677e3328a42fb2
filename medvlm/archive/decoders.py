"""A pool of processes that decode, seen from the packer: samples go in, outcomes come out in the same order.

Whatever a sample does to the process that decodes it, it gets one outcome: the process is ended at the limit of time,
ends by itself at the limit of memory, and is replaced whenever it is gone.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from types import TracebackType

from medvlm.archive.decoder import read_answer
from medvlm.archive.stored import Stored
from medvlm.core.card import Card
from medvlm.core.contracts import BadSample, Deferred, RawSample
from medvlm.core.errors import DataError

Item = RawSample | Deferred | BadSample
Outcome = Stored | DataError

MAX_HELD_BYTES = 256 << 20
"""No sample is handed out while so much waits for an earlier one; each that is under way then may come on top."""
HELD_PER_DECODER = 32
"""Samples that are under way or wait for an earlier one."""
START_SECONDS = 120


@dataclass(frozen=True)
class Limits:
    """Of one decoder. memory_bytes: its address space. seconds: for one sample."""

    memory_bytes: int = 2 << 30
    seconds: int = 60


def num_decoders() -> int:
    """As many as there are processors for this process; one packer cannot feed more than 32."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 32)


@dataclass(eq=False)
class _Job:
    item: Item
    outcome: Outcome | None = None
    num_bytes: int = 0
    tries: int = 1


class Decoders:
    """`with Decoders(card, 2, Limits()) as decoders`: the processes live within the block."""

    def __init__(self, card: Card, num: int, limits: Limits) -> None:
        self._card, self._limits = card, limits
        self._decoders = [_Decoder(card, limits) for _ in range(num)]
        self._queue: deque[_Job] = deque()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for decoder in self._decoders:
            decoder.end()

    def outcomes(self, items: Iterable[Item]) -> Iterator[tuple[Item, Outcome]]:
        """In the order of the items, which are taken as they are needed. Raises RuntimeError where decoders cannot be started."""
        order: deque[_Job] = deque()
        coming: Iterator[Item] | None = iter(items)
        while coming or order:
            for decoder in self._decoders:
                if decoder.is_idle:
                    while coming and not self._queue and self._has_room(order):
                        coming = self._take(coming, order)
                    if self._queue:
                        decoder.give(self._queue.popleft())
            while order and (outcome := order[0].outcome) is not None:
                yield order.popleft().item, outcome
            if not all(decoder.is_idle for decoder in self._decoders):
                self._collect()

    def _has_room(self, order: deque[_Job]) -> bool:
        return len(order) < HELD_PER_DECODER * len(self._decoders) and sum(job.num_bytes for job in order) < MAX_HELD_BYTES

    def _take(self, items: Iterator[Item], order: deque[_Job]) -> Iterator[Item] | None:
        """The next item; None when there are no more."""
        item = next(items, None)
        if item is None:
            return None
        order.append(job := _Job(item))
        if isinstance(item, BadSample):
            job.outcome = DataError(item.reason)
        else:
            self._queue.append(job)
        return items

    def _collect(self) -> None:
        """Waits until a decoder has something to say, or has had its time."""
        ends_at = min(decoder.ends_at for decoder in self._decoders)
        ready = wait([decoder.connection for decoder in self._decoders], max(ends_at - time.monotonic(), 0))
        for place, decoder in enumerate(self._decoders):
            if decoder.connection in ready:
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
        job, exit_code = decoder.job, decoder.end(patience=2 if gone == _DIED else 0)
        self._decoders[place] = _Decoder(self._card, self._limits)
        if job is None:
            return
        if exit_code == -signal.SIGKILL and gone == _DIED and job.tries == 1:  # perhaps the system was out of memory for others: once more
            job.tries += 1
            self._queue.appendleft(job)
        elif gone == _SLOW or exit_code == -signal.SIGALRM:
            job.outcome = DataError(f"took more than {self._limits.seconds} s to decode; reduce or split it")
        else:
            how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended (exit code {exit_code})"
            job.outcome = DataError(f"its decoder {how}")


_ENVIRONMENT = {
    "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    # glibc would give the memory of every image back to the system and fetch it anew, page by page: half of the time
    # of a JPEG of 640 x 480. Blocks up to 32 MiB (its maximum) now come from a heap of which 256 MiB stay.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}  # fmt: skip
_DIED, _SPENT, _SLOW = "died", "spent", "slow"
"""Why a decoder has to be replaced."""
_LONG_SECONDS = 86400.0


class _Decoder:
    """One process and what it works on. ends_at: when its time is over."""

    def __init__(self, card: Card, limits: Limits) -> None:
        self._limits = limits
        self.job: _Job | None = None
        self.is_starting, self.ends_at = True, time.monotonic() + START_SECONDS
        self.connection, theirs = Pipe()
        # Not multiprocessing's own start: it would import the main program, and with it perhaps torch, in every process.
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        env = {**os.environ, **_ENVIRONMENT, "PYTHONPATH": paths}
        command = [sys.executable, "-m", "medvlm.archive.decoder", str(limits.memory_bytes), str(limits.seconds)]
        self._process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=env)
        theirs.close()
        self._send(card)

    @property
    def is_idle(self) -> bool:
        return not self.is_starting and self.job is None

    def give(self, job: _Job) -> None:
        """Only to an idle one, which reads: otherwise both might wait for the other to read."""
        self.job, self.ends_at = job, time.monotonic() + self._limits.seconds
        self._send(job.item)

    def _send(self, what: Card | Item) -> None:
        with suppress(OSError):  # it has died: take() will see that
            self.connection.send_bytes(pickle.dumps(what))

    def take(self) -> str:
        """Its answer goes to the job; "" where the process can go on."""
        try:
            answer = read_answer(self.connection, self._limits.memory_bytes)
        except (EOFError, OSError, ValueError, KeyError, TypeError):
            return _DIED
        if isinstance(answer, dict) and "fault" in answer:
            raise RuntimeError(answer["fault"])
        if isinstance(answer, dict) and "ready" in answer:
            self.is_starting, self.ends_at = False, time.monotonic() + _LONG_SECONDS
            return ""
        assert self.job is not None
        if isinstance(answer, Stored):
            self.job.outcome, self.job.num_bytes = answer, sum(map(len, answer.members.values()))
        else:
            self.job.outcome = DataError(answer["bad"])
        self.job, self.ends_at = None, time.monotonic() + _LONG_SECONDS
        return _SPENT if isinstance(answer, dict) and "spent" in answer else ""

    def end(self, patience: float = 0) -> int:
        """Its exit code. patience: seconds in which it may come to its end by itself."""
        self.connection.close()
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
