"""The records of a table file: CSV, TSV, JSON lines, or a JSON list."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from medvlm.core.cell_values import as_whole, is_nothing, strip
from medvlm.core.errors import DataError

Format = Literal["csv", "tsv", "jsonl", "json"]
_PLAIN_WHOLE = re.compile(r"[+-]?\d+")

NAMES_FIRST = "expected the names of the columns in its first line"
"""Errors say this instead of quoting the first line: in a table without a header line it would be patient data."""

SHORT: Any = object()
"""The value of a column that a row of CSV or TSV does not reach: which of its values is missing is not known."""
TOO_SHORT = "fewer values than the table has columns: which of them is missing is not known"
TOO_LONG = "more values than the table has columns"


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

    path: for a JSON object with several lists, `annotations.json#train` reads the list under that key. A column of CSV
    or TSV whose numbers are all whole, but some of them are written as `3.0` (as pandas does where one is missing), is
    read as whole numbers, as 3.0 of JSON is.
    Raises DataError if the file is missing, not of the format, or not UTF-8.
    """
    path, key = without_key(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such table; a card names its tables relative to the root")
    try:
        with path.open(encoding="utf-8-sig", newline="" if form in ("csv", "tsv") else None) as file:
            if form in ("csv", "tsv"):
                delimiter = "," if form == "csv" else "\t"
                whole = _find_whole(_read_separated(file, str(path), delimiter))
                file.seek(0)
                for number, row in _read_separated(file, str(path), delimiter):
                    yield number, {c: as_whole(v) if c in whole and isinstance(v, str) else v for c, v in row.items()}
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
    return strip(str(value))


def find_value(record: dict[Any, Any], column: str) -> Any:
    """The value of a column; of `options.A` or `prompt.0.text` that within nested records and lists, if no column has
    this very name. None if there is none."""
    if column in record or "." not in column:
        return record.get(column)
    value: Any = record
    for part in column.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def is_there(column: str, names: Collection[Any]) -> bool:
    """Whether a table with columns of these names may have it, see find_value()."""
    return column in names or column.partition(".")[0] in names


def find_fault(record: dict[Any, Any]) -> str:
    """What is wrong with a row of CSV or TSV; "" for a row with a value for each column."""
    if None in record:  # where csv.DictReader puts what is beyond the header
        return TOO_LONG
    return TOO_SHORT if any(value is SHORT for name, value in record.items() if name) else ""


def guess_delimiter(names: Collection[Any]) -> str:
    """A hint for a table that lacks a column: what its values seem to be separated by. "" where nothing is seen."""
    first = next(iter(names), "")
    if any(name and name.startswith("sep=") for name in names):
        return "; its first line is Excel's `sep=`: delete that line"
    seems = max(";\t|,", key=first.count)
    if len(names) > 1 or not first.count(seems):
        return ""
    name = "tabs" if seems == "\t" else f"{seems!r}"
    return f"; its values seem to be separated by {name}: save it anew with commas, or set `format` (csv, tsv: tabs)"


def _find_whole(rows: Iterator[tuple[int, dict[str | None, Any]]]) -> set[str | None]:
    """The columns with a number such as `3.0` and none such as `3.5`, or text."""
    floats, others = set[str | None](), set[str | None]()
    for _, row in rows:
        for column, value in row.items():
            if column in others or not isinstance(value, str):
                continue
            text = strip(value)
            if as_whole(text) != text:
                floats.add(column)
            elif not _PLAIN_WHOLE.fullmatch(text) and text and not is_nothing(text):
                others.add(column)
    return floats - others


def _read_separated(file: Any, path: str, delimiter: str) -> Iterator[tuple[int, dict[str | None, Any]]]:
    csv.field_size_limit(1 << 27)  # the default, 131072 characters, is too short for a long report
    reader = csv.DictReader(file, delimiter=delimiter, strict=True, restval=SHORT)
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
            other = f"{len(found)} others" if isinstance(found, dict) else f"a {type(found).__name__}"
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
