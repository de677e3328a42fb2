"""The index of a tar: what it holds and where, one row per sample and one per member. Stored in columns, so that
millions of samples fit in memory.

`NAME.tar.index.json` is stored next to `NAME.tar`. It is built from the tar alone, in the same way for medvlm's own and
foreign tars.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from medvlm.core.errors import DataError, shorten
from medvlm.core.sample import Question, Sample
from medvlm.core.stored import Misfit, require_type
from medvlm.core.tasks import FIRST_TASKS

VERSION = 2
"""Version 1 did not name its tasks; they are FIRST_TASKS. Such an index is still read, and is not rewritten."""
INDEX = ".index.json"


@dataclass(frozen=True)
class Index:
    """Axes: N samples, M members, K tasks.

    bytes, sha256: of the whole tar. keys_N: UTF-8. splits, media, members: the distinct values that the codes in
    split_N, media_N and member_M stand for. tasks: their names; a task that is not installed here is allowed. tasks_NK:
    number of questions of each task. first_N1: sample i has the members first_N1[i]..first_N1[i + 1]. crc_M: zlib.crc32
    of the member's bytes. groups: name (site, concept ...) -> (its values, the first of them "" for samples without
    one; the index of each sample's value). left_out: missing member -> number of samples left out for it."""

    bytes: int
    sha256: str
    splits: tuple[str, ...]
    media: tuple[tuple[str, ...], ...]
    members: tuple[str, ...]
    tasks: tuple[str, ...]
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
    groups: dict[str, tuple[list[str], list[int]]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys_N)


_COLUMNS = {
    "keys_N": np.bytes_, "split_N": np.uint16, "media_N": np.uint16, "report_N": np.bool_, "tasks_NK": np.uint16,
    "first_N1": np.int64, "member_M": np.uint16, "offset_M": np.int64, "size_M": np.int64, "crc_M": np.uint32,
}  # fmt: skip


def index_path(tar: Path) -> Path:
    return tar.with_name(tar.name + INDEX)


def read_index(path: Path) -> Index:
    """Reads an index from a file. Raises as parse_index()."""
    return parse_index(path.read_bytes(), str(path))


def parse_index(text: bytes, where: str) -> Index:
    """Reads an index from its JSON. Raises DataError if it is damaged or of a newer version."""
    try:
        record = json.loads(text)
        if isinstance(version := record["version"], int) and version > VERSION:
            raise DataError(
                f"{where}: the index has version {shorten(version)}, expected at most {VERSION}; update medvlm, or"
                " delete the index: it is built again when the tar is opened"
            )
        return _from_json(record)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, MemoryError) as reason:
        why = reason if isinstance(reason, Misfit) else type(reason).__name__
        raise DataError(
            f"{where}: a damaged index ({why}); delete it, and it is built again when the tar is opened"
        ) from None


def dump_index(index: Index) -> str:
    record: dict[str, Any] = {"version": VERSION, "bytes": index.bytes, "sha256": index.sha256}
    record |= {"splits": index.splits, "media": index.media, "members": index.members, "tasks": index.tasks}
    record |= {name: getattr(index, name).tolist() for name in _COLUMNS if name != "keys_N"}
    record["report_N"] = index.report_N.astype(int).tolist()
    record["keys_N"] = [key.decode() for key in index.keys_N.tolist()]
    record |= {name: value for name, value in (("groups", index.groups), ("left_out", index.left_out)) if value}
    return json.dumps(record, separators=(",", ":"))


def save_index(index: Index, path: Path) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w") as file:
            file.write(dump_index(index))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class _Record(TypedDict):
    """An index in JSON, without the columns of numbers."""

    bytes: int
    sha256: str
    splits: list[str]
    media: list[list[str]]
    members: list[str]
    keys_N: list[str]
    tasks: NotRequired[list[str]]
    groups: NotRequired[dict[str, tuple[list[str], list]]]
    left_out: NotRequired[dict[str, int]]


def _from_json(record: dict[str, Any]) -> Index:
    require_type(record, _Record)
    if record["version"] not in (1, VERSION):
        raise Misfit("its version is not known")
    tasks = tuple(record["tasks"]) if record["version"] > 1 else FIRST_TASKS
    keys = np.array([key.encode() for key in record["keys_N"]], dtype=np.bytes_)
    columns = {name: _read_column(name, record[name], kind) for name, kind in _COLUMNS.items() if name != "keys_N"}
    columns["tasks_NK"] = columns["tasks_NK"].reshape(len(keys), len(tasks))
    index = Index(
        record["bytes"],
        record["sha256"],
        tuple(record["splits"]),
        tuple(tuple(m) for m in record["media"]),
        tuple(record["members"]),
        tasks,
        keys_N=keys,
        **columns,
        groups={
            name: (values, _read_column("groups", codes, np.int32).tolist())
            for name, (values, codes) in record.get("groups", {}).items()
        },
        left_out=record.get("left_out", {}),
    )
    _check_columns(index)
    if index.keys_N.tolist() != [key.encode() for key in record["keys_N"]] or len(set(record["keys_N"])) != len(keys):
        raise Misfit("keys_N has a key twice, or one that ends in a null")
    return index


def _read_column(name: str, values: Any, kind: Any) -> np.ndarray:
    """Raises Misfit for anything but whole numbers that the type can hold."""
    require_type(values, list, name)
    found = np.array(values)
    most = 1 if kind is np.bool_ else np.iinfo(kind).max
    if found.size and (found.dtype.kind not in "iu" or found.min() < 0 or found.max() > most):
        raise Misfit(f"{name} has what is not a whole number from 0 to {most}")
    if found.ndim != 1 and name != "tasks_NK":
        raise Misfit(f"{name} is not a list of numbers")
    return found.astype(kind)


def _check_columns(index: Index) -> None:
    """Raises Misfit if the columns do not fit together, so that no later access can be out of range."""
    rows = {len(getattr(index, name)) for name in ("split_N", "media_N", "report_N")}
    places = {len(getattr(index, name)) for name in ("member_M", "offset_M", "size_M", "crc_M")}
    first = index.first_N1
    if (
        rows != {len(index)}
        or len(places) != 1
        or len(first) != len(index) + 1
        or first[0] != 0
        or places != {int(first[-1])}
    ):
        raise Misfit("its columns have different lengths")
    for codes, names in ((index.split_N, index.splits), (index.media_N, index.media), (index.member_M, index.members)):
        if len(codes) and codes.max() >= len(names):
            raise Misfit("a code has no name")
    for names in (index.splits, index.members, index.tasks):
        if len(set(names)) != len(names):
            raise Misfit("a split, a member or a task is listed twice")
    for values, of_samples in index.groups.values():
        if len(of_samples) != len(index) or not set(of_samples) <= set(range(len(values))):
            raise Misfit("a group has no name")
    if (np.diff(first) < 1).any():
        raise Misfit("a sample has no members")
    # Samples do not share bytes, so a small tar cannot be read as a huge one.
    if (index.offset_M > index.bytes - index.size_M).any() or index.size_M.sum(dtype=np.float64) > index.bytes:
        raise Misfit("a member is outside the tar")
    sample_M = np.repeat(np.arange(len(index)), np.diff(first))
    if len(np.unique(sample_M * (len(index.members) + 1) + index.member_M)) != len(index.member_M):
        raise Misfit("a sample has a member twice")


# --- building ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What the index records of a sample. kinds: the kinds of its media, each once. tasks: task -> number of questions
    that are asked. groups: name -> value, to balance sampling or hold samples out by."""

    key: str
    split: str
    kinds: tuple[str, ...]
    has_report: bool
    tasks: dict[str, int]
    groups: dict[str, str] = field(default_factory=dict)


def facts_of(sample: Sample) -> Facts:
    groups = {**sample.groups, "concept": sample.concept} if sample.concept else sample.groups
    return Facts(
        sample.key,
        sample.split,
        tuple(dict.fromkeys(m.kind for m in sample.media)),
        bool(sample.report),
        count_tasks(sample.questions),
        groups,
    )


def count_tasks(questions: Iterable[Question]) -> dict[str, int]:
    return dict(Counter(question.truth.task for question in questions if question.weight))


class IndexBuilder:
    """Collects the rows of an index while its tar is read or written."""

    def __init__(self) -> None:
        self._splits: dict[str, int] = {}
        self._media: dict[tuple[str, ...], int] = {}
        self._members: dict[str, int] = {}
        self._tasks: dict[str, int] = {}
        self._samples: list[tuple[bytes, int, int, bool, dict[int, int]]] = []
        self._places: list[tuple[int, int, int, int]] = []
        self._first = [0]
        self._groups: dict[str, dict[str, int]] = {}
        self._group_codes: dict[str, list[int]] = {}
        self._left_out: Counter[str] = Counter()

    def add(self, facts: Facts, places: list[tuple[str, int, int, int]]) -> None:
        """places: name, offset, size and crc32 of each member, in the order of the tar."""
        for name in facts.groups.keys() - self._groups.keys():
            self._groups[name], self._group_codes[name] = {"": 0}, [0] * len(self._samples)
        for name, known in self._groups.items():
            self._group_codes[name].append(known.setdefault(facts.groups.get(name, ""), len(known)))
        split, kinds = (
            self._splits.setdefault(facts.split, len(self._splits)),
            self._media.setdefault(facts.kinds, len(self._media)),
        )
        tasks = {self._tasks.setdefault(task, len(self._tasks)): n for task, n in facts.tasks.items()}
        self._samples.append((facts.key.encode(), split, kinds, facts.has_report, tasks))
        self._places += [
            (self._members.setdefault(name, len(self._members)), offset, size, crc32)
            for name, offset, size, crc32 in places
        ]
        self._first.append(len(self._places))

    def leave_out(self, lacks: str) -> None:
        self._left_out[lacks] += 1

    def build(self, tar: Path | str, bytes_: int, sha256: str) -> Index:
        """The index of the complete tar. Raises DataError for a key that occurs twice."""
        rows = self._samples
        if len({row[0] for row in rows}) != len(rows):
            twice = next(number for number, (key, *_) in enumerate(rows) if key in {row[0] for row in rows[:number]})
            raise DataError(
                f"{tar}: the members of sample number {twice} are not consecutive, or two samples have this key; pack"
                " again"
            )
        keys, split, kind, report, asked = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        tasks_NK = [[tasks.get(code, 0) for code in range(len(self._tasks))] for tasks in asked]
        member, offset, size, crc = zip(*self._places, strict=True) if self._places else ((), (), (), ())
        values = {
            "keys_N": keys, "split_N": split, "media_N": kind, "report_N": report, "tasks_NK": tasks_NK,
            "first_N1": self._first, "member_M": member, "offset_M": offset, "size_M": size, "crc_M": crc,
        }  # fmt: skip
        columns: dict[str, np.ndarray] = {name: np.array(values[name], dtype=kind) for name, kind in _COLUMNS.items()}
        columns["tasks_NK"] = columns["tasks_NK"].reshape(len(rows), len(self._tasks))
        groups = {name: (list(self._groups[name]), self._group_codes[name]) for name in sorted(self._groups)}
        return Index(
            bytes_,
            sha256,
            tuple(self._splits),
            tuple(self._media),
            tuple(self._members),
            tuple(self._tasks),
            **columns,
            groups=groups,
            left_out=dict(self._left_out),
        )
