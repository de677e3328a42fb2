"""Opens a ShardSet from a folder, a tar or a tar pattern, on disk or at http(s)://, s3:// or gs://.

A tar without an index is indexed once. The index of a medvlm tar on disk is saved next to it, any other in the cache.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from medvlm.core.errors import DataError
from medvlm.core.stored import require_type
from medvlm.io.cache import Cache
from medvlm.io.forms import OWN, Form, index_of, load_index
from medvlm.io.places import LocalTars, RemoteTars, hide_credentials, is_remote, open_filesystem, retry
from medvlm.io.shard_index import INDEX, Index, dump_index, parse_index
from medvlm.io.shards import RECEIPT, ShardSet
from medvlm.io.tar import TarReader

_AT_ONCE = 16
"""Indexes requested in parallel. One after the other, a thousand shards at 50 ms each would take a minute."""
_READ_AHEAD = 8 << 20
SAY_SECONDS = 5.0
Say = Callable[[str], None]
_NO_PATTERN = "not a tar pattern; expected a folder or e.g. shards/{train,val}-{000000..000011}.tar"


def open_shards(where: Path | str, cache: Cache | None = None, form: Form = OWN, say: Say = lambda _: None) -> ShardSet:
    """where: a folder of shards, a tar, or a tar pattern (`{train,val}-{000..511}.tar`); also as a URL.

    cache: keeps data read over a network, and the indexes of foreign tars. form: how the members of a foreign tar make
    up samples. say: receives a progress line now and then while tars are indexed. Raises DataError if there are no
    shards, if they are unfinished or damaged, and whenever `form` does."""
    shards = _open_remote(str(where), cache, form, say) if is_remote(where) else _open_local(where, cache, form, say)
    if not any(shards.count(split) for split in shards.splits):
        raise DataError(
            f"{hide_credentials(str(where))}: the shards hold no samples"
            + "".join(f"; {n} lack {what}" for what, n in shards.left_out.items())
        )
    return shards


# --- on disk --------------------------------------------------------------------------------------------


def _open_local(where: Path | str, cache: Cache | None, form: Form, say: Say) -> ShardSet:
    folder = Path(where)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    receipt = (folder / RECEIPT).read_bytes() if RECEIPT in names else None
    tars, listed = _list_tars(str(where), names, receipt) if folder.is_dir() else (_expand(str(where)), {})
    form = OWN if listed else form
    paths = [folder / tar if folder.is_dir() else Path(tar) for tar in tars]
    indexes = list(
        _report_progress(
            (load_index(path) if form is OWN else _index_foreign(path, cache, form) for path in paths), len(paths), say
        )
    )
    _check_receipt(list(map(str, paths)), indexes, listed)
    return ShardSet(LocalTars(paths, [index.bytes for index in indexes]), indexes, form, is_packed=bool(listed))


def _index_foreign(tar: Path, cache: Cache | None, form: Form) -> Index:
    if not tar.is_file():
        raise DataError(f"{tar}: the shard is missing")
    found = tar.stat()

    def build() -> Index:
        with tar.open("rb") as file:
            return index_of(TarReader(file, tar), form)

    return _load_cached(cache, f"{tar.resolve()} {found.st_size} {found.st_mtime_ns} {form.identity}", build, str(tar))


# --- over a network ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Object:
    """A tar at a URL. version: changes when the file at the URL does."""

    url: str
    size: int
    version: str


def _open_remote(where: str, cache: Cache | None, form: Form, say: Say) -> ShardSet:
    files, path = open_filesystem(where)
    listed: dict[str, str] = {}
    if path.endswith(".tar"):
        urls = _expand(where)
    else:
        found = retry(lambda: files.ls(path, detail=False), hide_credentials(where))
        names = [str(each).rstrip("/").rpartition("/")[2] for each in found]
        receipt = (
            retry(lambda: files.cat_file(f"{path.rstrip('/')}/{RECEIPT}"), hide_credentials(where))
            if RECEIPT in names
            else None
        )
        tars, listed = _list_tars(hide_credentials(where), names, receipt)
        urls = [f"{where.rstrip('/')}/{tar}" for tar in tars]
        form = OWN if listed else form
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="index") as pool:
        objects = list(pool.map(_stat, urls))
        tars_ = RemoteTars(urls, [each.size for each in objects], [each.version for each in objects], cache)
        indexes = list(
            _report_progress(
                pool.map(lambda n: _index_remote(tars_, n, objects[n], cache, form), range(len(urls))),
                len(urls),
                say,
            )
        )
    _check_receipt(list(tars_.names), indexes, listed)
    return ShardSet(tars_, indexes, form, is_packed=bool(listed))


def _stat(url: str) -> _Object:
    files, path = open_filesystem(url)
    info = retry(lambda: files.info(path), hide_credentials(url))
    if info.get("size") is None:
        raise DataError(
            f"{hide_credentials(url)}: the server does not report the file size, so byte ranges cannot be read; copy"
            " the shards to a server that does"
        )
    tells = ("ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "mtime", "created")
    return _Object(url, int(info["size"]), " ".join(str(info[key]) for key in tells if info.get(key)))


def _index_remote(tars: RemoteTars, n: int, tar: _Object, cache: Cache | None, form: Form) -> Index:
    def build() -> Index:
        files, path = open_filesystem(tar.url)
        if form is OWN and retry(lambda: files.exists(path + INDEX), tars.names[n]):
            index = parse_index(retry(lambda: files.cat_file(path + INDEX), tars.names[n]), tars.names[n] + INDEX)
            if index.bytes != tar.size:
                raise DataError(
                    f"{tars.names[n]}: {tar.size} bytes, but its index says {index.bytes}: the shard is truncated or"
                    " was replaced; copy it again"
                )
            return index
        return index_of(TarReader(_ReadAhead(tars, n, tar.size), tars.names[n], size=tar.size), form)

    return _load_cached(cache, f"{tar.url} {tar.size} {tar.version} {form.identity}", build, tars.names[n])


class _ReadAhead:
    """A tar at a URL as a file that is read from start to end, in large requests."""

    def __init__(self, tars: RemoteTars, n: int, size: int) -> None:
        self._tars, self._n, self._size = tars, n, size
        self._at, self._left = 0, memoryview(b"")

    def read(self, size: int, /) -> bytes:
        parts = []
        while size:
            if not self._left:
                self._left = memoryview(self._tars.fetch(self._n, self._at, min(self._at + _READ_AHEAD, self._size)))
                self._at += len(self._left)
            parts.append(self._left[:size])
            self._left, size = self._left[len(parts[-1]) :], size - len(parts[-1])
        return b"".join(parts)

    def fileno(self) -> int:
        raise OSError("not a local file")


# --- both -------------------------------------------------------------------------------------------------


def _report_progress(indexes: Iterable[Index], total: int, say: Say) -> Iterator[Index]:
    """Passes the indexes on and reports progress. Indexing reads whole tars, which can take hours over a network."""
    said = time.monotonic()
    for number, index in enumerate(indexes, 1):
        yield index
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            say(f"indexing tars: {number} of {total}")


def _load_cached(cache: Cache | None, name: str, build: Callable[[], Index], tar: str) -> Index:
    """The index from the cache, or built and cached. A damaged cache entry is built again."""
    if cache is None:
        return build()
    for _ in range(2):
        text = cache.read_all(f"index {name}", lambda: dump_index(build()).encode())
        try:
            return parse_index(text, tar)
        except DataError:
            cache.drop(f"index {name}")
    return build()


def _expand(pattern: str) -> list[str]:
    """The tars of a brace pattern, as in a shell or webdataset: `{000..511}` becomes all numbers of that width,
    `{train,val}` becomes each name."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        if set("{}*?[]") & set(pattern):
            raise DataError(f"{hide_credentials(pattern)}: {_NO_PATTERN}")
        return [pattern]
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", found[1]):
        names = [f"{n:0{len(numbers[1])}d}" for n in range(int(numbers[1]), int(numbers[2]) + 1)]
    else:
        names = found[1].split(",")
    if len(names) < 2 and not numbers:
        raise DataError(f"{hide_credentials(pattern)}: {_NO_PATTERN}")
    return [tar for name in names for tar in _expand(pattern[: found.start()] + name + pattern[found.end() :])]


def _list_tars(folder: str, names: list[str], receipt: bytes | None) -> tuple[list[str], dict[str, str]]:
    """The tars of a folder in order; and if medvlm packed them, their sha256 by name (else {})."""
    tars = sorted(name for name in names if name.endswith(".tar"))
    unfinished = [name for name in names if name.endswith(".tar.part")]
    if receipt is not None:
        listed = _parse_receipt(receipt, folder)
        if missing := sorted(listed.keys() - set(tars)):
            raise DataError(
                f"{folder}: {len(missing)} of its {len(listed)} shards are missing ({missing[0]} ...); copy or pack"
                " them again"
            )
        return sorted(listed), listed
    if unfinished:
        raise DataError(
            f"{folder}: {len(unfinished)} shards are unfinished (*.tar.part); delete the folder and pack again"
        )
    if not tars:
        raise DataError(
            f"{folder}: no shards (*.tar) found; make them with `medvlm data pack CARD --root DIR --out {folder}`"
        )
    return tars, {}


class ReceiptRecord(TypedDict):
    """What is read of packed.json when shards are opened. shards: tar -> its sha256."""

    shards: dict[str, str]


def _parse_receipt(receipt: bytes, folder: str) -> dict[str, str]:
    try:
        record: dict[str, Any] = json.loads(receipt)
        require_type(record, ReceiptRecord)
        return dict(record["shards"])
    except (ValueError, RecursionError):
        raise DataError(
            f"{folder}/{RECEIPT}: not a receipt of `medvlm data pack`; delete the folder and pack again"
        ) from None


def _check_receipt(tars: list[str], indexes: list[Index], listed: dict[str, str]) -> None:
    for tar, index in zip(tars, indexes, strict=True):
        if listed.get(tar.rpartition("/")[2], index.sha256) != index.sha256:
            raise DataError(
                f"{tar}: not the shard that {RECEIPT} in its folder lists; copy the folder again or pack again"
            )
