"""Where shards go: a folder, which appears once it is complete, or a URL that fsspec can open (s3://, gs://,
memory://).

Both are filled in a work folder, `.NAME.packing`, next to the folder or, for a URL, in the current directory.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from medvlm.core.durable import require_local, sync_folder
from medvlm.core.errors import DataError
from medvlm.io.places import open_filesystem
from medvlm.io.shards import RECEIPT

UNFINISHED = "packing.tar.part"
"""An empty object that marks an incomplete remote target until all shards are there: object stores cannot rename a
folder."""


def target_of(out: Path | str) -> PackTarget:
    if "://" in str(out):
        return RemotePackTarget(str(out))
    require_local(Path(out))
    return PackTarget(Path(out))


class PackTarget:
    """A folder. beside: the folder of work folder, journal and lock. name: its name in theirs. takes_parts: whether
    keep() moves parts away."""

    takes_parts = False

    def __init__(self, folder: Path) -> None:
        self._folder, self.beside, self.name = folder, folder.parent, folder.name
        self._set_work()

    def __str__(self) -> str:
        return str(self._folder)

    def _set_work(self) -> None:
        self.work, self.journal = self.beside / f".{self.name}.packing", self.beside / f".{self.name}.journal"

    def receipt(self) -> bytes | None:
        """None if packing is not finished."""
        path = self._folder / RECEIPT
        return path.read_bytes() if path.is_file() else None

    def begin(self) -> None:
        """Raises DataError if the target holds something else already."""
        if self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir())):
            raise DataError(f"{self}: holds something that is not a finished pack; choose another folder or delete it")
        self.work.mkdir(exist_ok=True)

    def keep(self, parts: Iterable[Path]) -> None:
        """Complete parts may leave the work folder now; their indexes stay."""

    def publish(self) -> None:
        """Publishes the complete work folder. Every step but the last may be repeated."""
        sync_folder(self.work)
        self.work.replace(self._folder)
        sync_folder(self.beside)
        self.journal.unlink()

    def forget(self) -> None:
        """Removes the work folder and the journal: packing can no longer resume."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.journal.unlink(missing_ok=True)


class RemotePackTarget(PackTarget):
    """A URL. Shards are uploaded as soon as they are complete, the receipt last. The lock only excludes processes
    started in the same directory."""

    takes_parts = True

    def __init__(self, url: str) -> None:
        self._url, self.beside = url.rstrip("/"), Path()
        self.name = f"{self._url.rpartition('/')[2]}-{hashlib.sha256(self._url.encode()).hexdigest()[:8]}"
        self._set_work()
        self._files, self._root = open_filesystem(self._url)

    def __str__(self) -> str:
        return self._url

    def receipt(self) -> bytes | None:
        path = f"{self._root}/{RECEIPT}"
        return bytes(self._files.cat_file(path)) if self._files.exists(path) else None

    def begin(self) -> None:
        if not self.work.is_dir() and self._files.exists(self._root) and self._files.ls(self._root, detail=False):
            raise DataError(f"{self}: holds something that is not a finished pack; choose another place or delete it")
        self.work.mkdir(exist_ok=True)
        self._files.makedirs(self._root, exist_ok=True)
        self._files.pipe_file(f"{self._root}/{UNFINISHED}", b"")

    def keep(self, parts: Iterable[Path]) -> None:
        for part in parts:
            if part.is_file():
                self._put(part, part.name.removesuffix(".part"))
                part.unlink()

    def publish(self) -> None:
        for path in sorted(self.work.iterdir()):
            if path.name != RECEIPT:
                self._put(path, path.name)
        self._put(self.work / RECEIPT, RECEIPT)
        self.forget()

    def forget(self) -> None:
        if self.receipt() is not None and self._files.exists(path := f"{self._root}/{UNFINISHED}"):
            self._files.rm_file(path)
        super().forget()

    def _put(self, path: Path, name: str) -> None:
        self._files.put_file(str(path), f"{self._root}/{name}")
        found = self._files.size(f"{self._root}/{name}")
        if found != path.stat().st_size:
            raise OSError(errno.EIO, f"{name} has {found} bytes there and {path.stat().st_size} here")
