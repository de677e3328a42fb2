"""A line of progress: overwritten in a terminal, now and then a line of its own in a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

TERMINAL_S, FILE_S = 0.2, 30.0
"""Least time between two lines."""


class Live:
    """Call it with a line as often as you like; it shows what is due. `end` keeps the last line, `keep` any other."""

    def __init__(self) -> None:
        self._shown = time.monotonic()
        self._last = ""
        """The last line that is not yet kept: shown in a terminal, not shown in a file."""

    def __call__(self, line: str) -> None:
        self._last, now, terminal = line, time.monotonic(), sys.stdout.isatty()
        if now - self._shown < (TERMINAL_S if terminal else FILE_S):
            return
        self._shown = now
        if terminal:
            print(f"\r{line}\033[K", end="", flush=True)
        else:
            print(line, flush=True)
            self._last = ""

    def keep(self, line: str) -> None:
        """Shows a line that stays, at once."""
        print(f"\r{line}\033[K" if sys.stdout.isatty() else line, flush=True)
        self._last = ""

    def end(self) -> None:
        """Shows the last line, and keeps it."""
        if self._last:
            self.keep(self._last)

    def clear(self) -> None:
        """Removes the line from a terminal."""
        if self._last and sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)
        self._last = ""


def keep(show: Callable[[str], None], line: str) -> None:
    """Shows a line that no later one overwrites."""
    (show.keep if isinstance(show, Live) else show)(line)


def end(show: Callable[[str], None] | None) -> None:
    """The last line of something is shown, and stays."""
    if isinstance(show, Live):
        show.end()
