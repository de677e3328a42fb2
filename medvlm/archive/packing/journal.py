"""A log of what packing has decided so far, sample by sample, so that packing resumes after an interruption.

One line per sample, in reading order. From time to time a commit line records how much of the shards is safely on disk.
Lines after the last commit are dropped, and their samples are decoded again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from medvlm.archive.packing.deal import Share
from medvlm.io.shards import WritePosition


class Bad(NamedTuple):
    """A sample that was not packed: a line of the quarantine file."""

    key: str
    where: str
    reason: str


class Journal:
    """begun: the conditions under which packing began; resuming needs the same. places: position of each split's writer
    at the last commit.

    A file that is damaged, or was begun under other conditions, is started again, and `places` is empty.
    """

    def __init__(self, path: Path, begun: dict[str, Any]) -> None:
        self.places: dict[str, WritePosition] = {}
        self._path, self._crc, self._end, self._begun = path, 0, 0, begun
        if path.is_file():
            self._find_last_commit()
        self._file = path.open("r+b" if self._end else "wb")
        self._file.truncate(self._end)
        self._file.seek(self._end)
        if not self._end:
            self._add({"begun": begun})

    def past(self) -> Iterator[Share | Bad]:
        """What was decided before the last commit."""
        with self._path.open("rb") as file:
            while file.tell() < self._end:
                record = json.loads(file.readline())
                if "share" in record:
                    key, split, patient, images, *counts = record["share"]
                    yield Share(key, split, patient, tuple(images), *counts)
                elif "bad" in record:
                    yield Bad(*record["bad"])

    def add(self, decided: Share | Bad) -> None:
        self._add({"share" if isinstance(decided, Share) else "bad": decided})

    def commit(self, places: dict[str, WritePosition]) -> None:
        """places: what each writer's sync() has just returned."""
        self._add({"places": places, "crc32": self._crc})
        self._file.flush()
        os.fsync(self._file.fileno())
        self.places, self._end = places, self._file.tell()

    def close(self) -> None:
        self._file.close()

    def _add(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        self._crc = zlib.crc32(line, self._crc)
        self._file.write(line)

    def _find_last_commit(self) -> None:
        crc = at = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file):
                try:
                    record = json.loads(line)
                except ValueError:
                    return
                if (number == 0 and record != {"begun": self._begun}) or record.get("crc32", crc) != crc:
                    return
                crc, at = zlib.crc32(line, crc), at + len(line)
                if "places" in record and line.endswith(b"\n"):
                    self.places = {split: tuple(place) for split, place in record["places"].items()}
                    self._crc, self._end = crc, at
