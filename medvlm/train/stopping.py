"""The scheduler's wish that a run should end: SIGTERM or SIGUSR1 become a flag that the loop reads once a step."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType


class Preempted(Exception):
    """The run saved and stopped because it was told to; the command line exits with 75."""


class Stop:
    """While it is installed, SIGTERM and SIGUSR1 set `requested`."""

    def __init__(self) -> None:
        self.requested = False
        self._before = {s: signal.signal(s, self._request) for s in (signal.SIGTERM, signal.SIGUSR1)}

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def __enter__(self) -> Stop:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def end_with_torchrun() -> None:
    """A process that torchrun started ends when torchrun is gone, which leaves its processes behind, still writing, when it is killed.

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
