"""Shards: webdataset tars of samples, written completely or not at all, with random access by offset.

A folder of shards holds `SPLIT-000000.tar` (`KEY.json` = Sample.to_json(), `KEY.0.png` ...) and the index of each tar.
If packing made it, it also holds `card.yaml` and the receipt `packed.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from medvlm.core.errors import DataError, list_some
from medvlm.core.sample import Sample
from medvlm.io.checksum import crc32
from medvlm.io.forms import OWN, Form, read_rows
from medvlm.io.places import Tars
from medvlm.io.shard_index import Facts, Index, IndexBuilder, facts_of, index_path, save_index
from medvlm.io.tar import TarReader, build_tar_header

RECEIPT = "packed.json"


WritePosition = tuple[int, int, str]
"""Number of the tar being written, the bytes written to it so far, and their sha256."""

_START: WritePosition = (0, 0, "")


class ShardWriter:
    """Writes the samples of one split in the order they come. The same samples give the same bytes.

    The tars end in `.part` until close() renames them; leaving the `with` block with an exception removes them.
    max_bytes: limit for a tar, unless it holds a single larger sample. place: where to resume, as returned by sync() of
    an earlier process; whatever that process wrote after it is cut off. Raises DataError if the bytes before it are
    damaged.
    """

    def __init__(self, folder: Path, split: str, max_bytes: int = 256 << 20, place: WritePosition = _START) -> None:
        self.folder, self.split, self.max_bytes = folder, split, max_bytes
        self._number, self._bytes, _ = place
        self._file: IO[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if self._bytes:
            self._resume(place)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.release()
            for number in range(self._number + 1):
                self._part_path(number).unlink(missing_ok=True)
                index_path(self._tar_path(number)).unlink(missing_ok=True)

    def write(self, sample: Sample, files: Mapping[str, bytes]) -> None:
        """files: the bytes of each medium's member, and of any other member of the sample.

        Raises DataError, before anything is written, for text that is not Unicode.
        """
        assert {m.member for m in sample.media} <= set(files), (sample.key, sorted(files))
        self.put(facts_of(sample), {"json": json_of(sample), **files})

    def put(self, facts: Facts, members: Mapping[str, bytes]) -> None:
        """As write(), for a sample whose members already include its `json`."""
        assert facts.split == self.split, (facts.key, facts.split)
        assert "." not in facts.key and "/" not in facts.key, facts.key
        size = sum(512 + len(data) + -len(data) % 512 for data in members.values())
        if self._file is None or self._bytes + size > self.max_bytes:
            self._next_tar()
        places = []
        for name in sorted(members):
            data = members[name]
            header = build_tar_header(f"{facts.key}.{name}", len(data))
            places.append((name, self._bytes + len(header), len(data), crc32(data)))
            self._emit(header, data, bytes(-len(data) % tarfile.BLOCKSIZE))
        self._rows.add(facts, places)

    def sync(self) -> WritePosition:
        """Flushes to disk and returns where a writer can resume, even after a power cut."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._number, self._bytes, self._sha256.hexdigest()
        return _START

    def list_full_parts(self) -> list[Path]:
        """The finished parts, which are not written to any more. After sync() they may be moved elsewhere; their
        indexes must stay."""
        return [self._part_path(number) for number in range(self._number)]

    def close(self) -> list[Path]:
        """Finishes the last tar and renames all parts. Returns the tars that are still in the folder, in order."""
        self._finish_tar()
        here = [part for number in range(self._number + 1) if (part := self._part_path(number)).is_file()]
        return [part.rename(part.with_suffix("")) for part in here]

    def release(self) -> None:
        """Closes the part that is being written, and leaves it as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _part_path(self, number: int) -> Path:
        return self.folder / f"{self._tar_path(number).name}.part"

    def _tar_path(self, number: int) -> Path:
        return self.folder / f"{self.split}-{number:06d}.tar"

    def _resume(self, place: WritePosition) -> None:
        part = self._part_path(self._number)
        self._file = part.open("r+b")
        os.truncate(part, min(self._bytes, part.stat().st_size))
        reader = TarReader(self._file, part, may_end_early=True)
        self._rows, self._sha256 = read_rows(reader), reader.sha256
        if (self._number, reader.at, self._sha256.hexdigest()) != place:
            raise DataError(f"{part}: its first {self._bytes} bytes have changed since they were written; delete it")

    def _next_tar(self) -> None:
        if self._file is not None:
            self._finish_tar()
            self._number += 1
        self._file, self._bytes = self._part_path(self._number).open("wb"), 0
        self._rows, self._sha256 = IndexBuilder(), hashlib.sha256()

    def _emit(self, *blocks: bytes) -> None:
        assert self._file is not None
        for block in blocks:
            self._file.write(block)
            self._sha256.update(block)
            self._bytes += len(block)

    def _finish_tar(self) -> None:
        if self._file is None:
            return
        end = 2 * 512
        self._emit(bytes(end + -(self._bytes + end) % tarfile.RECORDSIZE))
        self.sync()
        self.release()
        part = self._part_path(self._number)
        save_index(
            self._rows.build(part, self._bytes, self._sha256.hexdigest()), index_path(self._tar_path(self._number))
        )


def json_of(sample: Sample) -> bytes:
    """The sample as UTF-8 JSON. Raises DataError for text that is not Unicode."""
    try:
        return json.dumps(sample.to_json(), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"sample {sample.key}: its text has a lone surrogate; repair the encoding of the archive's text"
        ) from None


@dataclass(frozen=True)
class Entry:
    """The index entry of a sample. tasks: task -> number of questions. media: the kinds of its media. groups: name ->
    value."""

    key: str
    tasks: dict[str, int]
    has_report: bool
    media: tuple[str, ...]
    groups: dict[str, str] = field(default_factory=dict)


class ShardSet:
    """Samples by split and position, in the order of the tars. Safe to use from threads, forked and spawned processes.

    fingerprint: a hash of the contents in this order, independent of where the files are. left_out: missing member ->
    number of samples left out for it. is_packed: whether the folder has the receipt of packing.
    """

    def __init__(self, tars: Tars, indexes: list[Index], form: Form = OWN, is_packed: bool = False) -> None:
        self._tars, self._indexes, self._form, self.is_packed = tars, indexes, form, is_packed
        self.splits = tuple(sorted({split for index in indexes for split in index.splits}))
        self.fingerprint = hashlib.sha256(
            "".join([form.identity, *(index.sha256 for index in indexes)]).encode()
        ).hexdigest()
        self.left_out = sum((Counter(index.left_out) for index in indexes), Counter[str]())
        # For each split: its rows in each tar, and the cumulative number of them.
        self._rows = {s: [_rows_of(index, s) for index in indexes] for s in self.splits}
        self._ends = {s: np.cumsum([len(rows) for rows in per_tar]).tolist() for s, per_tar in self._rows.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {"tars": self._tars, "indexes": self._indexes, "form": self._form, "is_packed": self.is_packed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def group_names(self) -> list[str]:
        """Names of the groups that samples carry, e.g. site or concept."""
        return sorted({name for index in self._indexes for name in index.groups})

    @property
    def is_foreign(self) -> bool:
        return self._form.identity != ""

    def count(self, split: str) -> int:
        """Number of samples of a split. Raises DataError for a split that these shards do not have."""
        if split not in self._ends:
            raise DataError(
                f"{Path(self._tars.names[0]).parent}: there is no split {split!r} (found {list_some(self.splits)})"
            )
        return int(self._ends[split][-1])

    def entry(self, split: str, i: int) -> Entry:
        tar, row = self._locate(split, i)
        index = self._indexes[tar]
        tasks = {task: int(n) for task, n in zip(index.tasks, index.tasks_NK[row], strict=True) if n}
        groups = {name: values[codes[row]] for name, (values, codes) in index.groups.items() if codes[row]}
        return Entry(
            index.keys_N[row].decode(), tasks, bool(index.report_N[row]), index.media[index.media_N[row]], groups
        )

    def tar(self, split: str, i: int) -> str:
        """The shard that holds a sample."""
        return self._tars.names[self._locate(split, i)[0]]

    def read(self, split: str, i: int) -> tuple[Sample, dict[str, Any]]:
        """The sample, and by member name what its media are decoded from. The bytes are checked against the index.
        Raises DataError that names shard and key."""
        tar, row = self._locate(split, i)
        index = self._indexes[tar]
        key = index.keys_N[row].decode()
        where = f"{self._tars.names[tar]}: sample {key}"
        places = slice(int(index.first_N1[row]), int(index.first_N1[row + 1]))
        offsets, sizes, crcs = (column[places].tolist() for column in (index.offset_M, index.size_M, index.crc_M))
        members = [index.members[code] for code in index.member_M[places]]

        def read_checked() -> dict[str, bytes]:
            files = dict(zip(members, self._tars.read(tar, offsets, sizes), strict=True))
            for (member, data), size, crc in zip(files.items(), sizes, crcs, strict=True):
                if len(data) != size:
                    raise DataError(
                        f"{where}: the shard ends within it ({len(data)} of the {size} bytes of {member}); copy it"
                        " again or pack again"
                    )
                if crc32(data) != crc:
                    raise DataError(
                        f"{where}: {member} has crc32 {crc32(data):08x}, but its index says {crc:08x}; copy the shard"
                        " again or pack again"
                    )
            return files

        try:
            files = read_checked()
        except DataError:
            if not self._tars.forget(tar, offsets, sizes):
                raise
            files = read_checked()  # the cached copy was damaged; now it is read from the shard
        return self._form.sample(key, index.splits[index.split_N[row]], files, where)

    def _locate(self, split: str, i: int) -> tuple[int, int]:
        """Tar and row of the i-th sample of a split."""
        if not 0 <= i < self.count(split):
            raise IndexError(f"sample {i} of {self.count(split)} in {split}")
        ends = self._ends[split]
        tar = bisect_right(ends, i)
        return tar, int(self._rows[split][tar][i - (ends[tar - 1] if tar else 0)])


def _rows_of(index: Index, split: str) -> range | np.ndarray:
    if index.splits == (split,):
        return range(len(index))
    return np.flatnonzero(index.split_N == index.splits.index(split)) if split in index.splits else range(0)
