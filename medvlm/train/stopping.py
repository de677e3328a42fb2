"""The scheduler's wish that a run should end (SIGTERM or SIGUSR1): a flag that the loop reads once a step; elsewhere
the end at once."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Preempted(Exception):
    """The run stopped because it was told to, with everything saved; the command line exits with 75."""


SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def preemptible() -> Iterator[None]:
    """Inside, a signal raises Preempted at once: while weights are read or data packed there is nothing to save. Stop
    takes over where there is."""

    def end(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # a second one must not disturb the end
        raise Preempted("stopped where there was nothing to save; run the same command again to go on")

    before = {each: signal.signal(each, end) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class Stop:
    """While it is installed, a signal sets `requested`. One that came after the last look at it counts afterwards."""

    def __enter__(self) -> Stop:
        self.requested = 0
        self._before = {each: signal.signal(each, self._request) for each in SIGNALS}
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = number

    def __exit__(self, kind: object, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        if self.requested and kind is None:
            signal.raise_signal(self.requested)


def end_with_torchrun() -> None:
    """A process that torchrun started ends when torchrun is gone, which leaves its processes behind, still writing,
    when it is killed.

    Other processes (of a shell that is left, of nohup) go on without whoever started them.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_without, args=(parent,), name="parent", daemon=True).start()


PR_SET_PDEATHSIG = 1


def _end_without(parent: int) -> None:
    # Where there is no such signal, and for a parent that was gone before it was asked for.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
