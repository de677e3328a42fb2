"""One request at a time computes; few others wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from medvlm.commands.serving.refusal import refuse_busy, refuse_slow

T = TypeVar("T")
Check = Callable[[], None]
"""Raises Refusal once a request has taken too long, and Gone if nobody waits for it any more."""


class Gone(Exception):
    """Nobody waits for the answer."""


class Turnstile:
    """waiting: how many requests may wait beside the one that computes. seconds: from when a request is admitted until
    its answer is complete."""

    def __init__(self, waiting: int, seconds: float):
        self.waiting, self.seconds = waiting, seconds
        self._inside = 0
        self._thread = ThreadPoolExecutor(1, "model")  # of one thread, so that libraries are never called by two

    @contextmanager
    def admit(self) -> Iterator[Ticket]:
        """Raises Refusal if too many requests wait. To be called on the event loop, before a body is read."""
        if self._inside > self.waiting:
            raise refuse_busy(self.waiting)
        self._inside += 1
        ticket = Ticket(self._thread, self.seconds)
        try:
            yield ticket
        finally:
            ticket.stop()
            self._inside -= 1

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


class Ticket:
    """The right of one request to compute, until it is stopped."""

    def __init__(self, thread: ThreadPoolExecutor, seconds: float):
        self._thread, self.seconds = thread, seconds
        self._until, self._gone = time.monotonic() + seconds, threading.Event()

    def check(self) -> None:
        if self._gone.is_set():
            raise Gone
        if time.monotonic() > self._until:
            raise refuse_slow(self.seconds)

    def stop(self) -> None:
        self._gone.set()

    @property
    def left_s(self) -> float:
        return max(0.0, self._until - time.monotonic())

    async def run(self, work: Callable[[Check], T]) -> T:
        """The result of `work` in the thread of the model. It is to call its argument often."""

        def begin() -> T:
            self.check()
            return work(self.check)

        future = asyncio.get_running_loop().run_in_executor(self._thread, begin)
        try:
            async with asyncio.timeout(self.left_s):
                return await future
        except TimeoutError:  # while it waits, or in work that has not called check() yet
            raise refuse_slow(self.seconds) from None
        finally:
            self.stop()
