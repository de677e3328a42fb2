"""Columns added to a table: those of other tables, texts from files, parts of values, the patient's earlier study."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field, field_validator

from medvlm.archive.tables.records import Format, cell_text, format_of, records
from medvlm.core.config import Config
from medvlm.core.errors import DataError

Row = dict[str, str]
"""Column -> value, stripped; "" is missing."""

PRIOR = "prior."
MAX_TEXT_BYTES = 1 << 20

_COLUMN = re.compile(r"\{([^{}]+)\}")


class Join(Config):
    file: str
    """Another table, under the root."""
    format: Format | None = None
    """By the file's suffix when absent."""
    on: tuple[str, ...] = Field(min_length=1)
    """Columns that both tables have; each row gets the other columns of the row with the same values in these."""


class Prior(Config):
    of: str
    """Template of the patient whose studies are put in order."""
    order: tuple[str, ...] = Field(min_length=1)
    """Numeric columns (a date, a time, a day) that order the rows; a leading `-` reverses a column. Rows with equal
    values are of the same time."""
    needed: bool = False
    """Leave out rows without an earlier one."""


class MoreColumns(Config):
    join: tuple[Join, ...] = ()
    texts: dict[str, str] = Field(default_factory=dict)
    """Column to add -> template of the path, under the root, of a file with its text."""
    parts: dict[str, str] = Field(default_factory=dict)
    """Column -> regular expression to search in it; its named groups become columns, empty if there is no match."""
    prior: Prior | None = None
    """Adds `{prior.COLUMN}`: the value in the last earlier row of the same patient (after `where` and `rename`)."""

    @field_validator("parts")
    @classmethod
    def _has_names(cls, parts: dict[str, str]) -> dict[str, str]:
        for column, pattern in parts.items():
            try:
                names = re.compile(pattern).groupindex
            except re.error as reason:
                raise ValueError(f"{column}: {pattern!r} is not a regular expression ({reason})") from None
            if not names:
                raise ValueError(f"{column}: {pattern!r} has no named group; expected e.g. (?P<patient>\\d+)")
        return parts


def columns_in(template: str) -> list[str]:
    """`{a} and {b}` -> a, b."""
    return _COLUMN.findall(template)


def fill(template: str, row: Row) -> str:
    """The template with the row's values; "" when one of them is missing."""
    if "{" not in template:
        return template.strip()
    if not all(row[column] for column in columns_in(template)):
        return ""
    return _COLUMN.sub(lambda column: row[column[1]], template).strip()


def file_in(root: Path, name: str) -> Path:
    """Raises DataError for a path outside the root (links inside it may lead out), and if there is no such file."""
    path = root / name
    if ".." in name.split("/") or (name.startswith("/") and not path.is_relative_to(root)):
        raise DataError("the path of its file leads out of the root; paths are relative to the root")
    if not path.is_file():
        raise DataError("its file is not there")
    return path


class Columns:
    """Which columns of a row are read, and which are added to it.

    own: columns to take from the row itself. seen: columns that the joined tables have. left_out: counts of missing
    text files.
    """

    def __init__(self, config: MoreColumns, root: Path, wanted: Iterable[str]) -> None:
        """Raises DataError if a joined table is missing, or has different rows with the same values of `on`."""
        self._config, self._root = config, root
        plain = {column.removeprefix(PRIOR) if config.prior else column for column in wanted}
        if config.prior:
            plain |= {*columns_in(config.prior.of), *(column.removeprefix("-") for column in config.prior.order)}
        plain |= {column for template in config.texts.values() for column in columns_in(template)}
        plain |= {column for join in config.join for column in join.on} | set(config.parts)
        self.added = {name for pattern in config.parts.values() for name in re.compile(pattern).groupindex} | set(
            config.texts
        )
        self.own = plain - self.added
        self.seen: set[str] = set()
        self._joined = [(join, _read_joined(join, root, self.own, self.seen)) for join in config.join]
        self.left_out: Counter[str] = Counter()

    def complete(self, row: Row) -> None:
        """Adds the columns. Raises DataError for a text file that cannot be read."""
        for join, rows in self._joined:
            for column, value in rows.get(tuple(row[name] for name in join.on), {}).items():
                row[column] = row[column] or value
        self._add_parts(row)
        for column, template in self._config.texts.items():
            row[column] = self._text(column, fill(template, row))
        self._add_parts(row)  # again, for the parts of the texts

    def _add_parts(self, row: Row) -> None:
        for column, pattern in self._config.parts.items():
            found = re.search(pattern, row.get(column, ""))
            for name in re.compile(pattern).groupindex:
                row[name] = ((found[name] if found else "") or "").strip()

    def _text(self, column: str, path: str) -> str:
        if not path or not (self._root / path).is_file():
            self.left_out[f"no file of text for {column}"] += 1
            return ""
        file = file_in(self._root, path)
        if file.stat().st_size > MAX_TEXT_BYTES:
            raise DataError(f"its text {column} is a file of more than {MAX_TEXT_BYTES >> 20} MiB")
        try:
            return file.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as reason:
            raise DataError(f"its text {column} is not UTF-8 (byte {reason.start})") from None


def _read_joined(join: Join, root: Path, wanted: set[str], seen: set[str]) -> dict[tuple[str, ...], Row]:
    """Values of `on` -> the row with its wanted columns. Adds the names of all columns to `seen`."""
    path = root / join.file
    rows: dict[tuple[str, ...], Row] = {}
    for number, record in records(path, join.format or format_of(join.file)):
        if not isinstance(record, dict) or (missing := [name for name in join.on if name not in record]):
            raise DataError(
                f"{path}: record {number} has no column {missing[0]!r}"
                if isinstance(record, dict)
                else f"{path}: record {number} is not a row"
            )
        seen.update(column for column in record if column is not None)
        row = {column: cell_text(value) or "" for column, value in record.items() if column in wanted}
        key = tuple(row[name] for name in join.on)
        if rows.setdefault(key, row) != row:
            raise DataError(
                f"{path}: record {number} says something else than an earlier one with the same {', '.join(join.on)}"
            )
    return rows


def with_prior(rows: Sequence[Row], prior: Prior) -> list[bool]:
    """Adds to each row the columns of the last earlier row, empty if there is none. Returns for each whether there is
    one."""
    of_whom: dict[str, list[tuple[tuple[float, ...], int]]] = {}
    for index, row in enumerate(rows):
        if (whose := fill(prior.of, row)) and (when := _numbers(row, prior.order)):
            of_whom.setdefault(whose, []).append((when, index))
    earlier: dict[int, int] = {}
    for history in of_whom.values():
        first_of: dict[tuple[float, ...], int] = {}
        for when, index in history:  # of several rows with the same time, the first one in the table is used
            first_of.setdefault(when, index)
        times = sorted(first_of)
        before = dict(zip(times[1:], times, strict=False))
        earlier |= {index: first_of[before[when]] for when, index in history if when in before}
    plain = [dict(row) for row in rows]
    for index, row in enumerate(rows):
        values = plain[earlier[index]] if index in earlier else dict.fromkeys(row, "")
        row.update({f"{PRIOR}{column}": value for column, value in values.items()})
    return [index in earlier for index in range(len(rows))]


def _numbers(row: Row, columns: tuple[str, ...]) -> tuple[float, ...] | None:
    """None if one of them is not a number: such a row cannot be ordered."""
    try:
        found = tuple(-float(row[column[1:]]) if column.startswith("-") else float(row[column]) for column in columns)
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) else None
