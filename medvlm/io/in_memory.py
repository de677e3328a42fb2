"""Files that are in memory and never on a disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medvlm.core.errors import DataError


@contextmanager
def lend_path(data: bytes) -> Iterator[Path]:
    """A path from which code of this process can read the bytes, until the end of the context.

    Raises DataError where the system has no files in memory: only Linux has (memfd_create)."""
    if not hasattr(os, "memfd_create"):
        raise DataError("this file can be read from memory only on Linux; send it as PNG or NIfTI")
    file = os.memfd_create("medvlm")
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(data)
        yield Path(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
