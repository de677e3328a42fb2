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
    return tar.with_name(tar.name + ".index.json")


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
    try:
        record = json.loads(beside.read_bytes())
        if record["version"] != VERSION:
            raise DataError(f"{beside}: an index of version {record['version']}, expected {VERSION}; delete it, it is built again when the tar is opened")
        index = _from_json(record)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as reason:
        raise DataError(f"{beside}: a damaged index ({type(reason).__name__}: {reason}); delete it, it is built again when the tar is opened") from None
    found = tar.stat().st_size
    if found != index.bytes:
        raise DataError(f"{tar}: {found} bytes, its index says {index.bytes}: the shard is cut or was replaced; copy it again, or delete {beside.name}")
    return index


def save_index(index: Index, path: Path) -> None:
    record: dict[str, Any] = {"version": VERSION, "bytes": index.bytes, "sha256": index.sha256}
    record |= {"splits": index.splits, "media": index.media, "members": index.members}
    record |= {name: getattr(index, name).tolist() for name in _COLUMNS if name != "keys_N"}
    record["report_N"] = index.report_N.astype(int).tolist()
    record["keys_N"] = [key.decode() for key in index.keys_N.tolist()]
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(record, separators=(",", ":")))
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


def build_index(tar: Path) -> Index:
    """Reads the whole tar once. Raises DataError naming the tar, and the key where one is known."""
    splits: dict[str, int] = {}
    media: dict[tuple[str, ...], int] = {}
    members: dict[str, int] = {}
    rows: list[tuple[bytes, int, int, bool, tuple[int, ...]]] = []
    places: list[tuple[int, int, int, int]] = []
    first = [0]
    with tar.open("rb") as file:
        whole = Whole(file, tar)
        for key, found, sample in _samples(whole):
            kinds = tuple(dict.fromkeys(m.kind for m in sample.media))
            tasks = Counter(q.truth.task for q in sample.questions)
            rows.append((
                key.encode(), splits.setdefault(sample.split, len(splits)), media.setdefault(kinds, len(media)),
                bool(sample.report), tuple(tasks[t] for t in get_args(Task)),
            ))  # fmt: skip
            places += [(members.setdefault(m.name, len(members)), m.offset, m.size, m.crc32) for m in found]
            first.append(len(places))
        bytes_, sha256 = whole.finish()
    if len({row[0] for row in rows}) != len(rows):
        twice = next(key for key, n in Counter(row[0] for row in rows).items() if n > 1)
        raise DataError(f"{tar}: the members of sample {twice.decode()} do not stand together, or there are two samples of this key")
    keys, split, kind, report, tasks_NK = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    member, offset, size, crc = zip(*places, strict=True) if places else ((), (), (), ())
    index_rows = {
        "keys_N": keys, "split_N": split, "media_N": kind, "report_N": report, "tasks_NK": tasks_NK,
        "first_N1": first, "member_M": member, "offset_M": offset, "size_M": size, "crc_M": crc,
    }  # fmt: skip
    columns: dict[str, np.ndarray] = {name: np.array(index_rows[name], dtype=kind) for name, kind in _COLUMNS.items()}
    columns["tasks_NK"] = columns["tasks_NK"].reshape(len(rows), len(TASKS))
    return Index(bytes_, sha256, tuple(splits), tuple(media), tuple(members), **columns)


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


