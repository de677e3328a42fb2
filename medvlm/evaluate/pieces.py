"""Divides an evaluation into pieces, assigns them to the ranks, and stores the result of each in a file at once, so
that a stopped evaluation resumes without asking again.

    evaluate/unfinished/DATASET-SPLIT-PROTOCOL-IDENTITY/WHAT-RANK.jsonl: a line [number of the piece, its result] each

A piece is the same work on any rank and after any stop, so its result is too. The files are also how ranks get each
other's results: all of them see the run folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm.core.errors import DataError
from medvlm.core.protocols import Progress
from medvlm.evaluate.ranks import find_rank, wait_for_ranks

FOLDER = "unfinished"


def hash_identity(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class KeptPieces:
    """The pieces of one protocol on one split. folder: theirs alone."""

    folder: Path

    def collect(self, what: str, sizes: Sequence[int], do: Callable[[int], Any], progress: Progress) -> list[Any]:
        """The results of do(0), do(1), ... for each of `sizes`, as JSON gives them back. Each is computed by one rank,
        and only if it is not kept. what: the name of this work. sizes: number of items of each piece, for progress."""
        rank, world = find_rank()
        kept = self._read(what)
        wait_for_ranks()  # all ranks have seen the same pieces before the first adds one
        missing = [number for number in range(len(sizes)) if number not in kept][rank::world]
        done = sum(sizes[number] for number in kept)
        total = done + sum(sizes[number] for number in missing)
        if missing:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{what}-{rank}.jsonl"
            _drop_unfinished_line(path)
            with path.open("a", encoding="utf-8") as file:
                for number in missing:
                    # ASCII escapes, so that any answer can be written, even a lone surrogate.
                    file.write(f"{json.dumps([number, do(number)])}\n")
                    file.flush()
                    done += sizes[number]
                    progress(what, done, total)
        wait_for_ranks()
        kept = self._read(what)
        if lost := [number for number in range(len(sizes)) if number not in kept]:
            raise DataError(
                f"{self.folder.name}: {len(lost)} of {len(sizes)} pieces were answered by ranks that write to another"
                " folder; put the run on a file system that all nodes share"
            )
        return [kept[number] for number in range(len(sizes))]

    def _read(self, what: str) -> dict[int, Any]:
        kept: dict[int, Any] = {}
        for path in sorted(self.folder.glob(f"{what}-*.jsonl")):
            *lines, _ = path.read_bytes().split(b"\n")  # the last line has no end if the process was killed
            for line in lines:
                with suppress(ValueError, TypeError):  # a damaged piece is done again
                    number, result = json.loads(line)
                    kept[number] = result
        return kept


def _drop_unfinished_line(path: Path) -> None:
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def open_pieces(evaluated: Path, of: str, identity: Mapping[str, Any]) -> KeptPieces:
    """evaluated: RUN/evaluate. of: data set, split and protocol. identity: all that decides the results. The pieces of
    another identity are removed: they are of another model, or of other data."""
    folder = evaluated / FOLDER / f"{of}-{hash_identity(identity)}"
    rank, _ = find_rank()
    if rank == 0:
        for other in folder.parent.glob(f"{of}-*"):
            if other != folder:
                shutil.rmtree(other)
    wait_for_ranks()
    return KeptPieces(folder)


def remove_pieces(pieces: Sequence[KeptPieces]) -> None:
    """Once the results are saved."""
    for each in pieces:
        shutil.rmtree(each.folder, ignore_errors=True)
        if each.folder.parent.is_dir() and not any(each.folder.parent.iterdir()):
            each.folder.parent.rmdir()
