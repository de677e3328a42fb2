"""The evaluate folder of a run: questions and answers, the settings, and the results.

KIND.jsonl (one record per line of what a protocol asked, e.g. `answers.jsonl`) and `protocol.json` (the settings of
each split) hold the measurements. `results.json` is computed from them alone, so it can be computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from medvlm.core.config import component, is_available, kinds
from medvlm.core.errors import DataError
from medvlm.core.protocols import FOLDER, MOST_RESAMPLES, Measured, Record, Row, SplitRecord
from medvlm.core.run import RunFolder, write_json
from medvlm.core.sample import truth_from_json
from medvlm.core.stored import explain_misfit, require_type
from medvlm.evaluate.measures import VERSION
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
    return [
        row
        for saved in read_saved(folder)
        for kind in saved.records
        if needs is None or component(FOLDER, kind).NEEDS in needs
        for row in score(saved, kind)
    ]


def score(saved: SavedSplit, kind: str) -> list[Row]:
    """The rows of one protocol on one split."""
    records = saved.records[kind]
    measured = _describe(saved.settings, kind, records)
    rows: list[Row] = component(FOLDER, kind).rows_of(records, saved.settings)
    for row in rows:
        row["measured"] = measured
    return rows


def _describe(settings: Record, kind: str, records: Sequence[Record]) -> Measured:
    identity = settings.get("models", {}).get(kind)
    asked: Record = next((each for each in settings.get("protocols", ()) if each.get("kind") == kind), {})
    decoding = {
        "decoding": settings.get("decoding"),
        "max_new_tokens": (identity or {}).get("max_new_tokens"),
        **{key: value for key, value in asked.items() if key != "kind"},
    }
    return {
        "data": settings.get("shards", {}).get("fingerprint"),
        "model": None if identity is None else _hash(identity),
        "recipe": settings.get("recipe"),
        "prompt": _hash([record.get("question") for record in records]),
        "decoding": decoding,
        "measures": VERSION,
        "medvlm": settings.get("medvlm"),
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def count_records(settings: Record) -> dict[str, int]:
    """Protocol -> number of records of a split. An entry of an early release is a list with the counts of two
    protocols."""
    counts: dict[str, int] | list[int] = settings["records"]
    return counts if isinstance(counts, dict) else dict(zip(_list_old_kinds(), counts, strict=True))


def _list_old_kinds() -> list[str]:
    """The protocols of early releases, in the order of their counts."""
    places = {kind: getattr(component(FOLDER, kind), "PLACE_IN_OLD_COUNTS", None) for kind in kinds(FOLDER)}
    return [kind for _, kind in sorted((place, kind) for kind, place in places.items() if place is not None)]


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
    entries: list[Record] = _parse(_read_text(path), list[SettingsRecord], str(path))
    for entry in entries:
        if why := _find_fault(entry):
            raise _explain_damage(str(path), why)
    return entries


class SettingsRecord(SplitRecord):
    """What results are computed from, besides the records."""

    records: dict[str, int] | list[int]
    baselines: list[str]
    rewards: dict[str, Any] | None
    resamples: int
    seed: int
    shards: NotRequired[dict[str, Any]]
    models: NotRequired[dict[str, dict[str, Any]]]
    protocols: NotRequired[list[dict[str, Any]]]


def _find_fault(entry: Record) -> str:
    """What no evaluation writes; "" if there is nothing."""
    records = entry["records"]
    if isinstance(records, list) and len(records) != (expected := len(_list_old_kinds())):
        return f"records has {len(records)} entries, expected {expected}"
    if unknown := [kind for kind in count_records(entry) if not is_available(FOLDER, kind)]:
        return f"records: {unknown[0]!r} is no protocol of medvlm, and of no plug-in that is installed"
    if not 0 < entry["resamples"] <= MOST_RESAMPLES:
        return f"resamples is {entry['resamples']}, expected 1 to {MOST_RESAMPLES}"
    return "" if entry["seed"] >= 0 else f"seed is {entry['seed']}, expected 0 or more"


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
