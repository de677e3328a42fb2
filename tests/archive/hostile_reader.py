"""A reader whose samples do to the process that decodes them what hostile files do, and worse."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medvlm.core import config
from medvlm.core.contracts import BadSample, Deferred, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded, Medium, Sample

SECRET = "JANE-DOE-1961"


class Config(config.Config):
    kind: Literal["tests.archive.hostile_reader"] = "tests.archive.hostile_reader"
    cases: tuple[str, ...]
    """Names of functions below, in order; an argument may follow: `good 3`."""
    deferred: bool = False


def read(config: Config, root: Path | None) -> Iterator[RawSample | Deferred | BadSample]:
    for i, case in enumerate(config.cases):
        if case == "reader says no":
            yield BadSample(f"{SECRET}-{i}", "the reader says no", f"case {i}")
        elif config.deferred:
            yield Deferred(f"{SECRET}-{i}", partial(sample, i, case), f"case {i}")
        else:
            yield sample(i, case)


def sample(i: int, case: str) -> RawSample:
    name, *arguments = case.split()
    member = "../../outside/0" if name == "traversal" else "0"
    media = (Medium("film", member, (8, 9) if name == "other_size" else ()),)
    made = Sample(f"{SECRET}-{i}", "", "", media, f"Case {i}: {case}.", patient=f"{SECRET}-{i}")
    value: Any = Path(arguments[0]) if name in ("path", "traversal") else partial(globals()[name], *map(int, arguments))
    return RawSample(made, {member: value}, f"case {i}")


def good(i: int) -> Decoded:
    return Decoded(np.full((4, 5), i, np.uint8), (0.5, 0.25), "display", "DX")


def large(mib: int, seed: int) -> Decoded:
    return Decoded(
        np.random.default_rng(seed).integers(0, 1 << 15, (mib, 512, 1024), dtype=np.int16), (1.0, 1.0, 1.0), "HU", "CT"
    )


def slow(seconds: int) -> Decoded:
    time.sleep(seconds)
    return good(200)


def other_size() -> Decoded:
    return good(0)


def eats_memory() -> Decoded:
    hoard = []
    while True:
        hoard.append(bytearray(16 << 20))


def asks_for_everything() -> Decoded:
    return Decoded(np.ones((1 << 20, 1 << 20), np.uint8))


def never_ends() -> Decoded:
    while True:
        pass


def never_wakes() -> Decoded:
    """Not even for signals that can be refused."""
    for each in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    while True:
        time.sleep(1000)


def is_killed() -> Decoded:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def crashes() -> Decoded:
    ctypes.string_at(0)
    raise AssertionError


def leaves() -> Decoded:
    sys.exit(SECRET)


def leaves_at_once() -> Decoded:
    os._exit(3)


def closes_everything() -> Decoded:
    os.closerange(0, 256)
    return good(0)


def answers_for_itself() -> Decoded:
    """On the socket, where the packer reads."""
    for descriptor in range(3, 32):
        with suppress(OSError):
            os.write(descriptor, b"\x00\x00\x00\x05hello")
    time.sleep(1000)
    raise AssertionError


def mumbles() -> Decoded:
    """The beginning of an answer."""
    for descriptor in range(3, 32):
        with suppress(OSError):
            os.write(descriptor, (1 << 20).to_bytes(8, "big") + b"{")
    time.sleep(1000)
    raise AssertionError


def talks() -> Decoded:
    for _ in range(2000):
        os.write(1, SECRET.encode() * 100)
        os.write(2, SECRET.encode() * 100)
    return good(7)


def raises() -> Decoded:
    raise KeyError(SECRET)


def refuses() -> Decoded:
    raise DataError("0: refused, and this is why")


def recurses() -> Decoded:
    return recurses()


def is_none() -> Any:
    return None


def holds_nan() -> Decoded:
    return Decoded(np.full((4, 5), np.nan, np.float32))


def holds_objects() -> Decoded:
    return Decoded(np.array([[SECRET]], object))


def holds_doubles() -> Decoded:
    return Decoded(np.zeros((4, 5)))
