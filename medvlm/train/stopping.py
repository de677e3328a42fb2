"""Handles SIGTERM and SIGUSR1, by which a scheduler ends a run. The loop reads a flag once per step; elsewhere the run
ends at once."""

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
    """The run was told to stop, and everything is saved. The command line exits with 75."""


SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Within this context a signal raises Preempted at once: while weights are read or data is packed, there is nothing
    to save. During training, Stop takes over."""

    def end(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
        raise Preempted("stopped when there was nothing to save; run the same command again to continue")

    before = {each: signal.signal(each, end) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class Stop:
    """Within this context a signal only sets `requested`. On exit, the signal is raised again if there was one."""

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
    """Ends this process when torchrun ends. If torchrun is killed, its processes would otherwise keep running and
    writing.

    Only for processes started by torchrun: those of a closed shell or of nohup keep running.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_after, args=(parent,), name="parent", daemon=True).start()


PR_SET_PDEATHSIG = 1


def _end_after(parent: int) -> None:
    # For systems without such a signal, and for a parent that ended before prctl was called.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
