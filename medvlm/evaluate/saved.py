"""The evaluate folder of a run: questions and answers, the settings, and the results.

KIND.jsonl (one record per line of what a protocol asked, e.g. `answers.jsonl`) and `protocol.json` (the settings of
each split) hold the measurements. `results.json` is computed from them alone, so it can be computed again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm.core.config import component, kinds
from medvlm.core.errors import DataError
from medvlm.core.protocols import FOLDER, Record, Row, SplitRecord
from medvlm.core.run import RunFolder, write_json
from medvlm.core.sample import truth_from_json
from medvlm.core.stored import explain_misfit, require_type
from medvlm.train.stopping import Stop

SETTINGS = "protocol.json"


@dataclass(frozen=True)
class SavedSplit:
    """What was asked on one split. settings: its entry of protocol.json. records: by protocol."""

    settings: Record
    records: dict[str, list[Record]]

    @property
    def dataset(self) -> str:
        return str(self.settings["dataset"])

    @property
    def split(self) -> str:
        return str(self.settings["split"])


def read_saved(folder: Path) -> list[SavedSplit]:
    """folder: RUN/evaluate. Raises DataError if a file is missing or damaged."""
    found: list[SavedSplit] = []
    read: dict[str, list[Record]] = {}
    for settings in _read_json(folder / SETTINGS):
        records = {}
        for kind, expected in count_records(settings).items():
            if kind not in read:
                read[kind] = list(_read_lines(folder / f"{kind}.jsonl", _find_form(kind)))
            records[kind] = [record for record in read[kind] if _is_of(record, settings)]
            if len(records[kind]) != expected:
                raise DataError(
                    f"{folder / f'{kind}.jsonl'}: {len(records[kind])} records of"
                    f" {settings['dataset']}:{settings['split']}, expected {expected}; evaluate again"
                )
        found.append(SavedSplit(settings, records))
    return found


def rescore(folder: Path, needs: Collection[str] | None = None) -> list[Row]:
    """The rows of every saved split, bit-equal to those of the evaluation. Needs no model.

    folder: RUN/evaluate. needs: keep only protocols that need one of these abilities of a model. Raises DataError if a
    file is missing or damaged."""
    rows: list[Row] = []
    for saved in read_saved(folder):
        for kind, records in saved.records.items():
            protocol = component(FOLDER, kind)
            if needs is None or protocol.NEEDS in needs:
                rows += protocol.rows_of(records, saved.settings)
    return rows


def count_records(settings: Record) -> dict[str, int]:
    """Protocol -> number of records of a split. An entry of an early release is a list with the counts of two
    protocols."""
    counts: dict[str, int] | list[int] = settings["records"]
    if isinstance(counts, dict):
        return counts
    found: dict[str, int] = {}
    for kind in kinds(FOLDER):
        place = getattr(component(FOLDER, kind), "PLACE_IN_OLD_COUNTS", None)
        if place is not None:
            found[kind] = counts[place]
    return found


def save(run: RunFolder, settings: Record, records: Mapping[str, Sequence[Record]]) -> list[Row]:
    """Replaces the records of one split, keeps those of the other splits, and writes and returns the results of all.
    records: by protocol.

    The results are written last, so that wherever they exist, the records they were computed from exist too. A signal
    waits until all is written.
    """
    with Stop():
        return _save(run, settings, records)


def _save(run: RunFolder, settings: Record, records: Mapping[str, Sequence[Record]]) -> list[Row]:
    folder = run.answers.parent
    folder.mkdir(parents=True, exist_ok=True)
    entries = _read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else []
    before = {kind for entry in entries if _is_of(entry, settings) for kind in count_records(entry)}
    for kind in sorted(before | records.keys()):
        path = folder / f"{kind}.jsonl"
        kept = [record for record in _read_lines(path) if not _is_of(record, settings)] if path.exists() else []
        name = {"dataset": settings["dataset"], "split": settings["split"]}
        _write_lines(path, [*kept, *({**name, **record} for record in records.get(kind, ()))])
    counts = {kind: len(of_kind) for kind, of_kind in records.items()}
    others = [entry for entry in entries if not _is_of(entry, settings)]
    write_json(folder / SETTINGS, [*others, {**settings, "records": counts}])
    rows = rescore(folder)
    write_json(run.results, rows)
    return rows


def _is_of(record: Record, settings: Record) -> bool:
    return bool(record["dataset"] == settings["dataset"] and record["split"] == settings["split"])


def _find_form(kind: str) -> Any:
    """The type of a protocol's records, as far as it says."""
    protocol = component(FOLDER, kind)
    return protocol.FORM if hasattr(protocol, "FORM") else SplitRecord


def _read_lines(path: Path, form: Any = None) -> Iterator[Record]:
    for number, line in enumerate(_read_text(path).rstrip("\n").split("\n"), start=1):
        if line:
            record = _parse(line, form or SplitRecord, f"{path}:{number}")
            if "truth" in record:
                _require_truth(record["truth"], f"{path}:{number}")
            yield record


def _read_json(path: Path) -> list[Record]:
    records: list[Record] = _parse(_read_text(path), list[SettingsRecord], str(path))
    return records


class SettingsRecord(SplitRecord):
    records: dict[str, int] | list[int]


def _parse(text: str, form: Any, where: str) -> Any:
    try:
        value = json.loads(text)
        require_type(value, form)
    except (ValueError, RecursionError) as reason:
        raise _explain_damage(where, explain_misfit(reason)) from None
    return value


def _require_truth(record: Any, where: str) -> None:
    try:
        truth_from_json(record)
    except (DataError, TypeError, ValueError) as reason:
        raise _explain_damage(where, f"truth: {reason}") from None


def _explain_damage(where: str, why: str) -> DataError:
    folder = Path(where).parent.name
    return DataError(f"{where}: damaged ({why}); delete the folder {folder}, and evaluate again")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        raise DataError(f"{path}: cannot be read ({type(reason).__name__}); evaluate again to write it") from None


def _write_lines(path: Path, records: Iterable[Record]) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("w", encoding="utf-8") as file:
        # ASCII escapes, so that any answer can be written, even a lone surrogate.
        file.writelines(f"{json.dumps(record)}\n" for record in records)
    part.replace(path)
