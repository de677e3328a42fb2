"""Progress of packing: one line a second, with rate and remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable

from medvlm.core.live import end, keep

Progress = Callable[[str], None]
LEAST_S = 0.01
"""A rate over less time says nothing: a set of few samples would have millions a second."""


class PackProgress:
    def __init__(self, name: str, expected: int, progress: Progress | None) -> None:
        self._name, self._expected, self._progress = name, expected, progress
        self._start = self._shown = 0.0
        self._done = self._bad = self._bytes = self._before = 0

    def resume(self, done: int, bad: int) -> None:
        """Counts what an earlier process did; it does not enter the rate."""
        self._done, self._bad, self._before = done, bad, done
        if done and self._progress:
            keep(self._progress, f"packing {self._name}: goes on after {done}")

    def show(self, num_bytes: int, bad: int) -> None:
        """Call after each sample."""
        now = time.monotonic()
        if not self._start:  # starts at the first sample, so the start of the decoders is not in the rate
            self._start = self._shown = now
        self._done, self._bad, self._bytes = self._done + 1, self._bad + bad, self._bytes + num_bytes
        if self._progress is None or (now - self._shown < 1 and self._done != self._expected):
            return
        self._shown, seconds = now, max(now - self._start, LEAST_S)
        rate = (self._done - self._before) / seconds
        of = f" of {self._expected}, {max(self._expected - self._done, 0) / rate:.0f} s left" if self._expected else ""
        self._progress(
            f"packing {self._name}: {self._done}{of}, {rate:.0f} samples/s, {self._bytes / seconds / 1e6:.1f} MB/s,"
            f" {self._bad} bad"
        )

    def end(self) -> None:
        end(self._progress)
