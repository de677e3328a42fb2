"""The evaluate folder of a run: what was asked and answered, under which settings, and the results that follow from it.

`answers.jsonl` (a question a line), `retrieval.jsonl` (a query a line), `protocol.json` (the settings of each
split) are what was measured; `results.json` is computed from them alone, so it can be computed again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medvlm.core.errors import DataError
from medvlm.core.run import RunFolder, write_json
from medvlm.evaluate.protocol import Row
from medvlm.evaluate.rows import rows_of

Record = dict[str, Any]


def rescore(answers: Path) -> list[Row]:
    """The rows of every split whose answers are saved, bit-equal to those of the evaluation; no model is needed.

    answers: an answers.jsonl, with retrieval.jsonl and protocol.json beside it. Raises DataError when one is missing or
    damaged."""
    protocol, retrieval = _beside(answers)
    asked, pairs = list(_lines(answers)), list(_lines(retrieval))
    rows: list[Row] = []
    for settings in _read_json(protocol):
        of_split = [a for a in asked if _is_of(a, settings)], [p for p in pairs if _is_of(p, settings)]
        found = [len(records) for records in of_split]
        if found != settings["records"]:
            expected = " answers and ".join(map(str, settings["records"]))
            raise DataError(
                f"{answers}: {found[0]} answers and {found[1]} queries of {settings['dataset']}:{settings['split']},"
                f" expected {expected}; evaluate again"
            )
        rows += rows_of(*of_split, settings)
    return rows


def save(run: RunFolder, settings: Record, answers: Sequence[Record], pairs: Sequence[Record]) -> list[Row]:
    """Puts one split's records in place of those it had, keeps the other splits', and writes the results of all, which
    it returns.

    The results are written last: whoever finds them finds what they come from.
    """
    protocol, retrieval = _beside(run.answers)
    run.answers.parent.mkdir(parents=True, exist_ok=True)
    for path, records in ((run.answers, answers), (retrieval, pairs)):
        kept = [record for record in _lines(path) if not _is_of(record, settings)] if path.exists() else []
        _write_lines(
            path,
            [*kept, *({"dataset": settings["dataset"], "split": settings["split"], **record} for record in records)],
        )
    others = [entry for entry in _read_json(protocol) if not _is_of(entry, settings)] if protocol.exists() else []
    write_json(protocol, [*others, {**settings, "records": [len(answers), len(pairs)]}])
    rows = rescore(run.answers)
    write_json(run.results, rows)
    return rows


def _beside(answers: Path) -> tuple[Path, Path]:
    return answers.with_name("protocol.json"), answers.with_name("retrieval.jsonl")


def _is_of(record: Record, settings: Record) -> bool:
    return bool(record["dataset"] == settings["dataset"] and record["split"] == settings["split"])


def _lines(path: Path) -> Iterator[Record]:
    for number, line in enumerate(_text(path).rstrip("\n").split("\n"), start=1):
        try:
            if line:
                yield json.loads(line)
        except ValueError as reason:
            raise DataError(f"{path}:{number}: not a JSON line ({reason}); evaluate again") from None


def _read_json(path: Path) -> list[Record]:
    try:
        records: list[Record] = json.loads(_text(path))
    except ValueError as reason:
        raise DataError(f"{path}: not JSON ({reason}); evaluate again") from None
    return records


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        raise DataError(
            f"{path}: cannot be read ({type(reason).__name__}); an evaluation writes it, evaluate again"
        ) from None


def _write_lines(path: Path, records: Iterable[Record]) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("w", encoding="utf-8") as file:
        # ASCII, so that any answer can be written, a lone surrogate too.
        file.writelines(f"{json.dumps(record)}\n" for record in records)
    part.replace(path)
