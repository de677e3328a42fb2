"""The scheduler's wish that a run should end: SIGTERM or SIGUSR1 become a flag that the loop reads once a step."""

from __future__ import annotations

import signal
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
