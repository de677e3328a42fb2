"""planned_ranks.py FRESH HALFWAY LONGER RUNS: trains recipes on two ranks; the second was begun by one process, and the
third has samples that are longer than planned."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from medvlm.data.estimate import NoFiles
from medvlm.data.row_plan import find_load, is_within
from medvlm.stages.supervised import Supervised
from tests.tiny_run import trained


@contextmanager
def lengthening_samples() -> Iterator[list[bool]]:
    """A third of the samples turn out longer once they are decoded. Yields whether each planned row is then within
    the budget; those that are trained always are."""
    planned: list[bool] = []
    prepare, split = Supervised.prepare_sample, Supervised._split

    def lengthen(self: Any, sample: Any, files: Any, *place: int) -> Any:
        made = prepare(self, sample, files, *place)
        is_longer = not isinstance(files, NoFiles) and crc32(sample.key.encode()) % 3 == 0
        return replace(made, prefix=made.prefix[:1] * 45 + made.prefix) if is_longer else made

    def check(self: Any, prepared: list[Any], count: int) -> list[list[Any]]:
        parts, rows = split(self, prepared, count), self.config.rows
        for row in sorted({d.row for d in prepared}):
            planned.append(is_within([find_load(d) for d in prepared if d.row == row], rows))
        assert all(is_within([find_load(d) for d in part], rows) for part in parts)
        return parts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supervised, "prepare_sample", lengthen)
        patch.setattr(Supervised, "_split", check)
        yield planned


def main(fresh: str, halfway: str, longer: str, runs: str) -> None:
    for path in (fresh, halfway):
        trained(Path(path), Path(runs))
    with lengthening_samples():
        trained(Path(longer), Path(runs))


if __name__ == "__main__":
    main(*sys.argv[1:])
