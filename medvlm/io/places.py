"""Where the tars of a shard set lie: on a disk, or at a place that is read over a network in ranges (http, s3, gs,
memory)."""

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
"""Tars kept open in a process: four sources of 512 shards would not fit the usual limit of 1024 files."""
BLOCK = 4 << 20
"""What is fetched and kept at a time where there is a cache. A request takes as long as 1 to 5 MB of it."""
_WAITS = (0.5, 2.0, 8.0, 30.0)
"""Seconds between the attempts to read."""


class Tars(Protocol):
    """Tars by number, read at any place by any number of threads. names: as they are shown, without credentials."""

    @property
    def names(self) -> Sequence[str]: ...

    def read(self, tar: int, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """The bytes of members that stand together. Raises DataError for a tar that is missing, cut or replaced,
        StorageError where it cannot be reached for a minute."""

    def forget(self, tar: int, offsets: Sequence[int], sizes: Sequence[int]) -> bool:
        """Whether these bytes came from a cache, which they are now taken out of: they are damaged."""


class LocalTars:
    def __init__(self, paths: Sequence[Path], sizes: Sequence[int]) -> None:
        self.names: Sequence[str] = [str(path) for path in paths]
        self._paths, self._sizes = list(paths), list(sizes)
        self._open: dict[int, _Handle] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": {}}

    def read(self, tar: int, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        handle = self._open_tar(tar)  # held by name: it closes when it is pushed out and nobody holds it
        return [os.pread(handle.descriptor, size, offset) for offset, size in zip(offsets, sizes, strict=True)]

    def forget(self, tar: int, offsets: Sequence[int], sizes: Sequence[int]) -> bool:
        return False

    def _open_tar(self, tar: int) -> _Handle:
        # Without a lock, which a fork could copy while it is held: at worst two threads open the same tar.
        handle = self._open.get(tar)
        if handle is None:
            handle = _Handle(self._paths[tar], self._sizes[tar])
            self._open = {**(self._open if len(self._open) < MAX_OPEN else {}), tar: handle}
        return handle


class _Handle:
    """An open tar; closed when nobody holds it any more, so never under the hands of a thread that reads."""

    def __init__(self, path: Path, bytes_: int) -> None:
        try:
            self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as reason:
            raise DataError(f"{path}: the shard cannot be opened ({type(reason).__name__})") from None
        found = os.fstat(self.descriptor).st_size
        if found != bytes_:
            raise DataError(
                f"{path}: {found} bytes, its index says {bytes_}: the shard was cut or replaced; copy it again or pack"
                " again"
            )

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class RemoteTars:
    """urls: of one file system of fsspec. versions: change when what is at the url does, so that a cache never mixes
    two of them."""

    def __init__(self, urls: Sequence[str], sizes: Sequence[int], versions: Sequence[str], cache: Cache | None) -> None:
        self.names: Sequence[str] = [hide_credentials(url) for url in urls]
        self._urls, self._sizes, self._versions, self._cache = list(urls), list(sizes), list(versions), cache

    def read(self, tar: int, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """In one request, with what lies between them."""
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
        """Past the cache."""
        files, path = open_filesystem(self._urls[tar])
        data: bytes = retry(lambda: files.cat_file(path, start=start, end=end), self.names[tar])
        if len(data) > end - start:
            raise DataError(
                f"{self.names[tar]}: asked for {end - start} bytes, the server sent {len(data)}: it does not serve"
                " ranges; copy the shards to one that does"
            )
        if len(data) < end - start:
            raise DataError(
                f"{self.names[tar]}: ends within the {end - start} bytes from {start} on ({len(data)} came): it was cut"
                " or replaced since it was opened"
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
    """File system and path. Raises DataError where the package for it is missing."""
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
    """What `read` gives, tried again while the network is away. A sample that cannot be reached is no bad sample:
    nothing takes its place.

    Raises DataError where the file is not there, StorageError where it must not be read, and after 40 seconds.
    """
    for wait in (*_WAITS, None):
        try:
            return read()
        except FileNotFoundError:
            raise DataError(f"{name}: the shard is missing") from None
        except PermissionError as reason:
            raise StorageError(
                f"{name}: must not be read with the credentials that this process has ({type(reason).__name__})"
            ) from None
        except Exception as reason:  # each file system has errors of its own for a network that is away
            if wait is None:
                raise StorageError(
                    f"{name}: cannot be read, tried {len(_WAITS) + 1} times ({type(reason).__name__}); run the same"
                    " command again when it can be reached"
                ) from None
            time.sleep(wait)


def hide_credentials(url: str) -> str:
    """Without user, password and signed query."""
    return re.sub(r"^([a-z0-9+]+://)[^/@]*@", r"\1", url.partition("?")[0])
