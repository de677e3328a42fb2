"""Standard output and error that survive the end of their reader: `medvlm ... | head`, or a closed terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Output:
    """A text stream that writes characters which its encoding lacks as escapes. If it cannot be written any more, its
    process goes on without it, or ends with 0 where `goes_on` is false: then the output was all that was asked for."""

    def __init__(self, stream: Any, goes_on: bool):
        self._stream, self._goes_on = stream, goes_on

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except UnicodeEncodeError:  # a path or an answer with characters that this terminal lacks
            encoding = self._stream.encoding
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as reason:
            self._give_up(reason)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as reason:
            self._give_up(reason)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, reason: OSError) -> None:
        if not self._goes_on and not isinstance(reason, BrokenPipeError):
            raise reason
        with suppress(OSError, ValueError):  # a stream that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        if not self._goes_on:
            raise SystemExit(0)


@contextmanager
def survive_readers(goes_on: bool) -> Iterator[None]:
    """Within this context print never raises BrokenPipeError. goes_on: whether the process is to continue without
    readers, because it also writes files."""
    before = sys.stdout, sys.stderr
    out, err = Output(sys.stdout, goes_on), Output(sys.stderr, True)
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        err.flush()
        out.flush()
