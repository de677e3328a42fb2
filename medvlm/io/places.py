"""Reads byte ranges of a shard set's tars, from disk or over a network (http, s3, gs, memory)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from medvlm.core.errors import DataError, StorageError
from medvlm.io.cache import Cache

MAX_OPEN = 256
"""Tars that a process keeps open. Four sources of 512 shards would exceed the usual limit of 1024 open files."""
BLOCK = 4 << 20
"""Bytes fetched and cached at a time. The latency of a request equals the time for 1 to 5 MB."""
_WAITS = (0.5, 2.0, 8.0, 30.0)
"""Seconds to wait between attempts to read."""


class Tars(Protocol):
    """Tars by number. Any number of threads may read. names: as shown to users, without credentials."""

    @property
    def names(self) -> Sequence[str]: ...

    def read(self, tar: int, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """The bytes of neighbouring members. Raises DataError for a tar that is missing, truncated or replaced, and
        StorageError if it cannot be reached for a minute."""

    def forget(self, tar: int, offsets: Sequence[int], sizes: Sequence[int]) -> bool:
        """Drops these bytes, which are damaged, from the cache. Returns whether they may have come from a cache."""


class LocalTars:
    def __init__(self, paths: Sequence[Path], sizes: Sequence[int]) -> None:
        self.names: Sequence[str] = [str(path) for path in paths]
        self._paths, self._sizes = list(paths), list(sizes)
        self._open: dict[int, _Handle] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": {}}

    def read(self, tar: int, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        handle = self._open_tar(tar)  # this reference keeps it open even if another thread evicts it
        return [os.pread(handle.descriptor, size, offset) for offset, size in zip(offsets, sizes, strict=True)]

    def forget(self, tar: int, offsets: Sequence[int], sizes: Sequence[int]) -> bool:
        return False

    def _open_tar(self, tar: int) -> _Handle:
        # No lock, because a fork could copy it while it is held. At worst two threads open the same tar.
        handle = self._open.get(tar)
        if handle is None:
            handle = _Handle(self._paths[tar], self._sizes[tar])
            self._open = {**(self._open if len(self._open) < MAX_OPEN else {}), tar: handle}
        return handle


class _Handle:
    """An open tar. Closed when the last reference to it is gone, so never while a thread still reads."""

    def __init__(self, path: Path, bytes_: int) -> None:
        try:
            self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as reason:
            raise DataError(f"{path}: the shard cannot be opened ({type(reason).__name__})") from None
        found = os.fstat(self.descriptor).st_size
        if found != bytes_:
            raise DataError(
                f"{path}: {found} bytes, but its index says {bytes_}: the shard was truncated or replaced; copy it"
                " again or pack again"
            )

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class RemoteTars:
    """Tars at URLs of one fsspec file system. versions: each changes when the file at its URL does, so that the cache
    never mixes two versions."""

    def __init__(self, urls: Sequence[str], sizes: Sequence[int], versions: Sequence[str], cache: Cache | None) -> None:
        self.names: Sequence[str] = [hide_credentials(url) for url in urls]
        self._urls, self._sizes, self._versions, self._cache = list(urls), list(sizes), list(versions), cache

    def read(self, tar: int, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Reads the whole range from the first to the last byte in one request (without a cache)."""
        start, end = _span_of(offsets, sizes)
        if self._cache is None:
            whole = self.fetch(tar, start, end)
        else:
            whole = b"".join(
                self._read_block(tar, n, max(start - n * BLOCK, 0), min(end - n * BLOCK, BLOCK))
                for n in _blocks_of(start, end)
            )
        return [whole[offset - start : offset - start + size] for offset, size in zip(offsets, sizes, strict=True)]

    def forget(self, tar: int, offsets: Sequence[int], sizes: Sequence[int]) -> bool:
        if self._cache is not None:
            for n in _blocks_of(*_span_of(offsets, sizes)):
                self._cache.drop(self._block_name(tar, n))
        return self._cache is not None

    def fetch(self, tar: int, start: int, end: int) -> bytes:
        """Reads a range over the network, without the cache."""
        files, path = open_filesystem(self._urls[tar])
        data: bytes = retry(lambda: files.cat_file(path, start=start, end=end), self.names[tar])
        if len(data) > end - start:
            raise DataError(
                f"{self.names[tar]}: asked for {end - start} bytes, but the server sent {len(data)}: it does not"
                " support range requests; copy the shards to a server that does"
            )
        if len(data) < end - start:
            raise DataError(
                f"{self.names[tar]}: asked for {end - start} bytes from {start} on, got {len(data)}: the shard was"
                " truncated or replaced after it was opened; run the command again"
            )
        return data

    def _read_block(self, tar: int, n: int, start: int, end: int) -> bytes:
        assert self._cache is not None
        first, last = n * BLOCK, min((n + 1) * BLOCK, self._sizes[tar])
        return self._cache.read(
            self._block_name(tar, n), last - first, start, end, lambda: self.fetch(tar, first, last)
        )

    def _block_name(self, tar: int, n: int) -> str:
        return f"{self._urls[tar]} {self._versions[tar]} {n}"


def _span_of(offsets: Sequence[int], sizes: Sequence[int]) -> tuple[int, int]:
    return min(offsets), max(offset + size for offset, size in zip(offsets, sizes, strict=True))


def _blocks_of(start: int, end: int) -> range:
    return range(start // BLOCK, -(-end // BLOCK))


def is_remote(where: Path | str) -> bool:
    return "://" in str(where)


def open_filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system and the path of a URL. Raises DataError if the package for it is missing."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as reason:
        raise DataError(
            f"{hide_credentials(url)}: cannot be reached ({reason}); s3:// needs the package s3fs, gs:// needs gcsfs,"
            " https:// needs aiohttp"
        ) from None
    return files, path


def retry(read: Callable[[], Any], name: str) -> Any:
    """The result of `read`, which is tried again while the network fails. A sample that cannot be reached is not a bad
    sample, so it is not skipped.

    Raises DataError if the file is missing; StorageError if access is denied, and after 40 seconds of failures.
    """
    for wait in (*_WAITS, None):
        try:
            return read()
        except FileNotFoundError:
            raise DataError(f"{name}: the shard is missing") from None
        except PermissionError as reason:
            raise StorageError(
                f"{name}: access is denied with the credentials of this process ({type(reason).__name__}); check them"
            ) from None
        except Exception as reason:  # every file system has its own exceptions for network failures
            if wait is None:
                raise StorageError(
                    f"{name}: cannot be read, tried {len(_WAITS) + 1} times ({type(reason).__name__}); run the same"
                    " command again when it can be reached"
                ) from None
            time.sleep(wait)


def hide_credentials(url: str) -> str:
    """The URL without user, password and query, which may hold a signature."""
    return re.sub(r"^([a-z0-9+]+://)[^/@]*@", r"\1", url.partition("?")[0])
