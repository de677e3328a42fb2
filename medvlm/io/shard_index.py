"""What is in a tar and where: one row a sample, one a member, in columns, so that millions of samples fit in memory.

`NAME.tar.index.json` lies beside `NAME.tar`. It is built from the tar alone, the same way for
tars of ours and of others.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from medvlm.core.errors import DataError
from medvlm.core.sample import Sample, Task
from medvlm.io.tar import Member, Whole, members

VERSION = 1
INDEX = ".index.json"
TASKS: tuple[str, ...] = get_args(Task)


@dataclass(frozen=True)
class Index:
    """Axes: N samples, M members, K kinds of tasks.

    bytes, sha256: of the whole tar. keys_N: UTF-8. splits, media, members: the distinct values that the codes of
    the columns stand for. tasks_NK: questions of each task. first_N1: sample i has members first_N1[i]..first_N1[i + 1].
    crc_M: zlib.crc32 of the member's bytes.
    """

    bytes: int
    sha256: str
    splits: tuple[str, ...]
    media: tuple[tuple[str, ...], ...]
    members: tuple[str, ...]
    keys_N: np.ndarray
    split_N: np.ndarray
    media_N: np.ndarray
    report_N: np.ndarray
    tasks_NK: np.ndarray
    first_N1: np.ndarray
    member_M: np.ndarray
    offset_M: np.ndarray
    size_M: np.ndarray
    crc_M: np.ndarray

    def __len__(self) -> int:
        return len(self.keys_N)


_COLUMNS = {
    "keys_N": np.bytes_, "split_N": np.uint16, "media_N": np.uint16, "report_N": np.bool_, "tasks_NK": np.uint16,
    "first_N1": np.int64, "member_M": np.uint16, "offset_M": np.int64, "size_M": np.int64, "crc_M": np.uint32,
}  # fmt: skip


def index_path(tar: Path) -> Path:
    return tar.with_name(tar.name + INDEX)


def load_index(tar: Path) -> Index:
    """The index beside the tar; a tar without one is indexed now, and the index kept where the folder can be written.

    Raises DataError for a tar that is not whole, whose size is not the index's, or that holds other things than samples.
    """
    beside = index_path(tar)
    if not tar.is_file():
        raise DataError(f"{tar}: the shard is missing")
    if not beside.is_file():
        index = build_index(tar)
        if os.access(tar.parent, os.W_OK):
            save_index(index, beside)
        return index
    index = read_index(beside)
    found = tar.stat().st_size
    if found != index.bytes:
        raise DataError(f"{tar}: {found} bytes, its index says {index.bytes}: the shard is cut or was replaced; copy it again, or delete {beside.name}")
    return index


def read_index(path: Path) -> Index:
    """Raises DataError for a file that is not an index of this version."""
    try:
        record = json.loads(path.read_bytes())
        if record["version"] != VERSION:
            raise DataError(f"{path}: an index of version {record['version']}, expected {VERSION}; delete it, it is built again when the tar is opened")
        return _from_json(record)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as reason:
        raise DataError(f"{path}: a damaged index ({type(reason).__name__}: {reason}); delete it, it is built again when the tar is opened") from None


def save_index(index: Index, path: Path) -> None:
    record: dict[str, Any] = {"version": VERSION, "bytes": index.bytes, "sha256": index.sha256}
    record |= {"splits": index.splits, "media": index.media, "members": index.members}
    record |= {name: getattr(index, name).tolist() for name in _COLUMNS if name != "keys_N"}
    record["report_N"] = index.report_N.astype(int).tolist()
    record["keys_N"] = [key.decode() for key in index.keys_N.tolist()]
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("w") as file:
        file.write(json.dumps(record, separators=(",", ":")))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _from_json(record: dict[str, Any]) -> Index:
    keys = np.array([key.encode() for key in record["keys_N"]], dtype=np.bytes_)
    columns: dict[str, np.ndarray] = {name: np.array(record[name], dtype=kind) for name, kind in _COLUMNS.items() if name != "keys_N"}
    columns["tasks_NK"] = columns["tasks_NK"].reshape(len(keys), len(TASKS))
    media = tuple(tuple(m) for m in record["media"])
    index = Index(record["bytes"], record["sha256"], tuple(record["splits"]), media, tuple(record["members"]), keys_N=keys, **columns)
    _check_columns(index)
    return index


def _check_columns(index: Index) -> None:
    """Raises ValueError where the columns do not fit together, so that no later access can be out of range."""
    rows = {len(getattr(index, name)) for name in ("split_N", "media_N", "report_N")}
    places = {len(getattr(index, name)) for name in ("member_M", "offset_M", "size_M", "crc_M")}
    first = index.first_N1
    if rows != {len(index)} or len(places) != 1 or len(first) != len(index) + 1 or first[0] != 0 or places != {int(first[-1])}:
        raise ValueError("columns of different lengths")
    for codes, names in ((index.split_N, index.splits), (index.media_N, index.media), (index.member_M, index.members)):
        if len(codes) and codes.max() >= len(names):
            raise ValueError("a code without a name")
    if (np.diff(first) < 1).any() or (index.offset_M < 0).any() or (index.size_M < 0).any() or (index.offset_M + index.size_M > index.bytes).any():
        raise ValueError("a member outside of the tar")


# --- building ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What the index says of a sample. kinds: those of its media, each once. tasks: number of questions of each of TASKS."""

    key: str
    split: str
    kinds: tuple[str, ...]
    has_report: bool
    tasks: tuple[int, ...]


def facts_of(sample: Sample) -> Facts:
    tasks = Counter(q.truth.task for q in sample.questions)
    return Facts(sample.key, sample.split, tuple(dict.fromkeys(m.kind for m in sample.media)), bool(sample.report), tuple(tasks[t] for t in get_args(Task)))


class Rows:
    """The rows of an index, while its tar is read or written."""

    def __init__(self) -> None:
        self._splits: dict[str, int] = {}
        self._media: dict[tuple[str, ...], int] = {}
        self._members: dict[str, int] = {}
        self._samples: list[tuple[bytes, int, int, bool, tuple[int, ...]]] = []
        self._places: list[tuple[int, int, int, int]] = []
        self._first = [0]

    def add(self, facts: Facts, places: list[tuple[str, int, int, int]]) -> None:
        """places: name, offset, size and crc32 of each member, in the order of the tar."""
        split, kinds = self._splits.setdefault(facts.split, len(self._splits)), self._media.setdefault(facts.kinds, len(self._media))
        self._samples.append((facts.key.encode(), split, kinds, facts.has_report, facts.tasks))
        self._places += [(self._members.setdefault(name, len(self._members)), offset, size, crc32) for name, offset, size, crc32 in places]
        self._first.append(len(self._places))

    def index(self, tar: Path, bytes_: int, sha256: str) -> Index:
        """Of the whole tar. Raises DataError for a key that is there twice."""
        rows = self._samples
        if len({row[0] for row in rows}) != len(rows):
            twice = next(key for key, n in Counter(row[0] for row in rows).items() if n > 1)
            raise DataError(f"{tar}: the members of sample {twice.decode()} do not stand together, or there are two samples of this key")
        keys, split, kind, report, tasks_NK = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        member, offset, size, crc = zip(*self._places, strict=True) if self._places else ((), (), (), ())
        values = {
            "keys_N": keys, "split_N": split, "media_N": kind, "report_N": report, "tasks_NK": tasks_NK,
            "first_N1": self._first, "member_M": member, "offset_M": offset, "size_M": size, "crc_M": crc,
        }  # fmt: skip
        columns: dict[str, np.ndarray] = {name: np.array(values[name], dtype=kind) for name, kind in _COLUMNS.items()}
        columns["tasks_NK"] = columns["tasks_NK"].reshape(len(rows), len(TASKS))
        return Index(bytes_, sha256, tuple(self._splits), tuple(self._media), tuple(self._members), **columns)


def build_index(tar: Path) -> Index:
    """Reads the whole tar once. Raises DataError naming the tar, and the key where one is known."""
    with tar.open("rb") as file:
        whole = Whole(file, tar)
        rows = read_rows(whole)
        return rows.index(tar, *whole.finish())


def read_rows(whole: Whole) -> Rows:
    rows = Rows()
    for key, found, sample in _samples(whole):
        assert key == sample.key, (key, sample.key)
        rows.add(facts_of(sample), [(m.name, m.offset, m.size, m.crc32) for m in found])
    return rows


def _samples(whole: Whole) -> Iterator[tuple[str, list[Member], Sample]]:
    group: list[Member] = []
    for member in members(whole):
        if group and group[0].key != member.key:
            yield group[0].key, group, _sample(whole.tar, group)
            group = []
        group.append(member)
    if group:
        yield group[0].key, group, _sample(whole.tar, group)


def _sample(tar: Path, group: list[Member]) -> Sample:
    key, names = group[0].key, [m.name for m in group]
    if len(set(names)) != len(names):
        raise DataError(f"{tar}: sample {key} holds a member twice ({', '.join(sorted(names))})")
    text = next((m.json for m in group if m.json is not None), None)
    if text is None:
        raise DataError(f"{tar}: sample {key} has no {key}.json; only shards of medvlm are read, pack the archive with `medvlm data pack`")
    sample = parse_sample(text, f"{tar}: sample {key}")
    if sample.key != key or not {m.member for m in sample.media} <= set(names):
        raise DataError(f"{tar}: sample {key}: its json is of sample {sample.key} with media {[m.member for m in sample.media]}, found {names}")
    return sample


def parse_sample(text: bytes, where: str) -> Sample:
    """Raises DataError for text that is not the JSON of a sample."""
    try:
        sample = Sample.from_json(json.loads(text))
        if not all(isinstance(x, str) for x in (sample.key, sample.split, *(m.kind for m in sample.media), *(m.member for m in sample.media))):
            raise TypeError("key, split, kind and member are text")
        return sample
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as reason:
        raise DataError(f"{where}: its json is not a sample of medvlm ({type(reason).__name__}: {reason}); pack the archive with `medvlm data pack`") from None


