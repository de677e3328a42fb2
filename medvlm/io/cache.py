"""An LRU cache on disk for bytes read over a network: bounded in size and shared by processes.

An entry appears under its name only when it is completely written. After a power cut its content may still be wrong, so
readers must check it (every member of a shard is checked against its index) and drop() what is damaged.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medvlm.core.errors import StorageError

_ROOM = 0.9
"""Eviction goes down to this share of the bound, so that it does not run for every new entry."""
_NUM_LOCKS = 256


class Cache:
    """At most `max_bytes` in `folder`. Any number of threads and processes of one machine may share it.

    Raises StorageError where the folder cannot be written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        try:
            (folder / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as reason:
            raise StorageError(
                f"cache.folder: the folder is not writable ({reason.strerror}); choose a folder on a local disk"
            ) from None

    def read(self, name: str, size: int, start: int, end: int, make: Callable[[], bytes]) -> bytes:
        """Bytes start..end of an entry of `size` bytes. A missing entry is made by the first caller; others wait for
        it."""
        found = self._read_part(name, size, start, end)
        if found is None:
            with self._lock(name):
                # Another process may have made it while this one waited.
                found = self._read_part(name, size, start, end)
                if found is None:
                    whole = make()
                    assert len(whole) == size, (name, len(whole), size)
                    self._put(name, whole)
                    found = whole[start:end]
        return found

    def read_all(self, name: str, make: Callable[[], bytes]) -> bytes:
        """A whole entry of any size. A missing entry is made as in read()."""
        found = self._read_file(name)
        if found is None:
            with self._lock(name):
                found = self._read_file(name)
                if found is None:
                    self._put(name, found := make())
        return found

    def drop(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._path_of(name).unlink()

    def _path_of(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self.folder / digest[:2] / digest[2:40]

    def _read_part(self, name: str, size: int, start: int, end: int) -> bytes | None:
        try:
            descriptor = os.open(self._path_of(name), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError:
            return None
        try:
            if os.fstat(descriptor).st_size != size:
                return None
            os.utime(descriptor)  # time of last use; many file systems update the access time only once a day
            return os.pread(descriptor, end - start, start)
        finally:
            os.close(descriptor)

    def _read_file(self, name: str) -> bytes | None:
        try:
            path = self._path_of(name)
            found = path.read_bytes()
            os.utime(path)
            return found
        except FileNotFoundError:
            return None

    def _put(self, name: str, data: bytes) -> None:
        """Writes an entry. Only one process writes at a time, so the bound always holds; the slow part, the network
        request, happens before the lock."""
        if len(data) > self.max_bytes:
            return
        path = self._path_of(name)
        part = path.with_name(f"{path.name}.part")
        with self._lock("room", "room"):
            self._make_room(len(data))
            path.parent.mkdir(exist_ok=True)
            try:
                part.write_bytes(data)
            except OSError as reason:
                part.unlink(missing_ok=True)
                raise StorageError(
                    f"cache.folder: writing failed ({reason.strerror}); lower cache.gib, or choose a larger disk"
                ) from None
            part.replace(path)

    def _make_room(self, size: int) -> None:
        """Evicts entries if `size` more bytes would exceed the bound.

        The total size is kept in a file and is increased before an entry is written, so after a kill it can be too
        high, but never too low."""
        note = self.folder / "bytes"
        try:
            total = int(note.read_text()) + size
        except (FileNotFoundError, ValueError):
            total = self._evict(self.max_bytes - size) + size
        if total > self.max_bytes:
            total = self._evict(max(int(self.max_bytes * _ROOM) - size, 0)) + size
        note.write_text(str(total))

    def _evict(self, bound: int) -> int:
        """Removes the least recently used entries until at most `bound` bytes are left; returns how many are left."""
        entries = []
        for path in self.folder.glob("??/*"):
            if path.suffix == ".part":  # left by a killed process: the caller holds the write lock
                path.unlink()
            else:
                with suppress(FileNotFoundError):
                    entries.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= bound:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

    @contextmanager
    def _lock(self, name: str, lock: str = "") -> Iterator[None]:
        """Holds the lock of an entry, or the named lock. The file is opened each time, because flock() excludes other
        threads only for separate descriptors. The system releases the lock if its holder dies."""
        number = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % _NUM_LOCKS
        with (self.folder / "locks" / (lock or f"{number:03d}")).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
