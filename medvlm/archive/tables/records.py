"""The records of a table file: CSV, TSV, JSON lines, or a JSON list."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from medvlm.core.errors import DataError, did_you_mean

Format = Literal["csv", "tsv", "jsonl", "json"]

NAMES_FIRST = "expected the names of the columns in its first line"
"""Errors say this instead of quoting the first line: in a table without a header line it would be patient data."""


def without_key(path: Path) -> tuple[Path, str]:
    """`annotations.json#train` -> `annotations.json` and `train`; without a `#` the key is ""."""
    name, _, key = path.name.partition("#")
    return path.with_name(name), key


def format_of(name: str) -> Format:
    """The format by the suffix. Raises DataError for an unknown suffix."""
    for known in get_args(Format):
        if name.partition("#")[0].lower().endswith(f".{known}"):
            return known  # type: ignore[no-any-return]
    raise DataError(f"{name}: cannot tell the format by its name; set reader.format to {', '.join(get_args(Format))}")


def word_for(name: str, form: Format | None = None) -> str:
    """What row numbers of a file refer to in messages: `line` or `record`. form: by the suffix when absent."""
    return (
        "line" if (form or name.partition("#")[0].lower().rpartition(".")[2]) in ("csv", "tsv", "jsonl") else "record"
    )


def records(path: Path, form: Format) -> Iterator[tuple[int, Any]]:
    """Yields (number, record). The number counts from 1; in CSV it is the last line of the record. A record is usually
    a dict.

    path: for a JSON object with several lists, `annotations.json#train` reads the list under that key.
    Raises DataError if the file is missing, not of the format, or not UTF-8.
    """
    path, key = without_key(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such table; tables of a card are relative to the root")
    try:
        with path.open(encoding="utf-8-sig", newline="" if form in ("csv", "tsv") else None) as file:
            if form in ("csv", "tsv"):
                yield from _read_separated(file, str(path), "," if form == "csv" else "\t")
            elif form == "jsonl":
                yield from (
                    (number, _parse_json(line, f"{path}:{number}"))
                    for number, line in enumerate(file, 1)
                    if line.strip()
                )
            else:
                yield from enumerate(_read_list(file.read(), str(path), key), 1)
    except UnicodeDecodeError as reason:
        raise DataError(f"{path}: not UTF-8 (byte {reason.start}); convert it, e.g. with iconv") from None


def document(path: Path) -> Any:
    """The content of a JSON file. Raises DataError if it is not JSON, or not UTF-8."""
    try:
        return _parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as reason:
        raise DataError(f"{path}: not UTF-8 (byte {reason.start}); convert it, e.g. with iconv") from None


def cell_text(value: Any) -> str | None:
    """A cell as text: 4 and 4.0 are `4`, true is `true`, a list is joined by commas, null and NaN are empty; None for a
    nested record."""
    if value is None or value != value:
        return ""
    if isinstance(value, list):
        parts = [cell_text(part) for part in value]
        return (
            None
            if None in parts or any(isinstance(part, list) for part in value)
            else ", ".join(part for part in parts if part)
        )
    if isinstance(value, dict):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _read_separated(file: Any, path: str, delimiter: str) -> Iterator[tuple[int, dict[str | None, Any]]]:
    csv.field_size_limit(1 << 27)  # the default, 131072 characters, is too short for a long report
    reader = csv.DictReader(file, delimiter=delimiter, strict=True)
    try:
        names = list(reader.fieldnames or ())
        if twice := [number for number, name in enumerate(names, 1) if name in names[: number - 1]]:
            raise DataError(f"{path}: column {twice[0]} has the same name as an earlier one; {NAMES_FIRST}")
        for record in reader:
            yield reader.line_num, record
    except csv.Error as reason:
        raise DataError(
            f"{path}:{reader.reader.line_num}: {reason}; expected values separated by {delimiter!r}, with quotes closed"
        ) from None


def _read_list(text: str, path: str, key: str) -> list[Any]:
    found = _parse_json(text, path)
    if key:
        if not isinstance(found, dict) or key not in found:
            other = (
                f"{len(found)} others{did_you_mean(key, map(str, found))}"
                if isinstance(found, dict)
                else f"a {type(found).__name__}"
            )
            raise DataError(f"{path}: expected an object with a list under {key!r}, found {other}")
        found = found[key]
    if not isinstance(found, list):
        raise DataError(f"{path}: expected a list of records, found a {type(found).__name__}")
    return found


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as reason:
        raise DataError(f"{where}: not JSON ({reason})") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply for a table") from None
