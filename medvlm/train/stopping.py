"""Handles SIGTERM and SIGUSR1, by which a scheduler ends a run, and Ctrl-C. The loop reads a flag once per step;
elsewhere the run ends at once."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Preempted(BaseException):
    """The run was told to stop, and everything is saved. The command line exits with 75.

    Not an Exception: it is raised at any line, also inside libraries that catch every Exception and go on."""


OF_SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1)
SIGNALS = (*OF_SCHEDULERS, signal.SIGINT)
NOTHING_TO_SAVE = "stopped when there was nothing to save; run the same command again to continue"


@contextmanager
def raise_on_signal(message: str = NOTHING_TO_SAVE, signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[Wish]:
    """Within this context a signal raises Preempted at once: while weights are read or data is packed, there is nothing
    to save. During training, Stop takes over.

    A signal that a library swallowed counts at the end of the context, and when the next Stop begins."""
    wish = Wish(message)
    before = _handle(wish.end, signals)
    try:
        yield wish
        wish.grant()
    except BaseException as reason:
        # What a library makes of Preempted, e.g. an ImportError from a half-imported module, is a consequence of it.
        if wish.is_made and not isinstance(reason, Preempted):
            raise Preempted(message) from reason
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _handle(
    handler: Callable[[int, FrameType | None], None], signals: Sequence[signal.Signals] = SIGNALS
) -> dict[signal.Signals, Any]:
    """Signal -> the handler before. Only the main thread of a process can set handlers and gets signals."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {each: signal.signal(each, handler) for each in signals}


class Wish:
    """Whether a signal has asked this process to end, and the message of its end."""

    def __init__(self, message: str = NOTHING_TO_SAVE):
        self.message = message
        self.is_made = False

    def end(self, number: int, frame: FrameType | None) -> None:
        """The first signal raises Preempted; a second must not interrupt the cleanup."""
        if not self.is_made:
            self.is_made = True
            self.grant()

    def grant(self) -> None:
        if self.is_made:
            raise Preempted(self.message)


class Stop:
    """Within this context a signal only sets `requested`. On exit, the signal is raised again if there was one."""

    def __enter__(self) -> Stop:
        self.requested = 0
        self._before = _handle(self._request)
        for handler in self._before.values():
            # A signal that was swallowed before this context begins must not be forgotten.
            if isinstance(wish := getattr(handler, "__self__", None), Wish) and wish.is_made:
                self.requested = self.requested or signal.SIGTERM
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
