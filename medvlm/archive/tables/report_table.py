"""Reports in a table next to the images, looked up by an identifier in the image headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medvlm.archive.tables.records import (
    NAMES_FIRST,
    Format,
    cell_text,
    find_fault,
    format_of,
    guess_delimiter,
    records,
)
from medvlm.core.cell_values import identify, is_nothing
from medvlm.core.config import Config
from medvlm.core.errors import DataError, did_you_mean


class ReportTable(Config):
    file: str
    """The table, under the root: CSV, TSV, JSON lines or a JSON list."""
    format: Format | None = None
    """By the file's suffix when absent."""
    column: str
    """Which column holds the identifier."""
    holds: Literal["StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber", "PatientID"]
    """Which identifier it holds."""

    def load(self, root: Path, columns: set[str]) -> Reports:
        """The rows, with these columns. Raises DataError if a column is missing, or if two different rows have the same
        identifier."""
        path, wanted, seen, rows = root / self.file, {self.column, *columns}, set[str](), dict[str, dict[str, str]]()
        if not path.is_file():
            raise DataError(f"{path}: there is no such table; reader.reports.file is relative to the root {root}")
        for number, record in records(path, self.format or format_of(self.file)):
            if not isinstance(record, dict):
                raise DataError(f"{path}: record {number} is not a row")
            if fault := find_fault(record):
                raise DataError(f"{path}: record {number} has {fault}")
            seen |= set(record)
            row = {column: cell_text(record.get(column)) or "" for column in wanted}
            row = {column: "" if is_nothing(text) else text for column, text in row.items()}
            key = row[self.column]
            if key and rows.setdefault(key, row) != row:
                raise DataError(
                    f"{path}: record {number} has the {self.holds} of an earlier one but another text; expected one"
                    " text each"
                )
        if missing := sorted(wanted - seen):
            raise DataError(
                f"{path}: no column {missing[0]!r}{did_you_mean(missing[0], seen)}"
                f" ({f'{len(seen)} others' if seen else 'no rows'}; {NAMES_FIRST}{guess_delimiter(seen)})"
            )
        of_form: dict[str, list[str]] = {}
        for key in filter(None, rows):
            of_form.setdefault(identify(key), []).append(key)
        return Reports(self.holds, tuple(sorted(columns)), rows, of_form)


@dataclass(frozen=True)
class Reports:
    """rows: identifier -> row. holds: which identifier; "" if there is no table. of_form: identify() of an identifier
    -> those of the table, 12 and 0012."""

    holds: str = ""
    columns: tuple[str, ...] = ()
    rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    of_form: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def empty(self) -> dict[str, str]:
        return dict.fromkeys(self.columns, "")

    def find(self, identifiers: Mapping[str, str]) -> Mapping[str, str] | None:
        """The row for an image with these identifiers; {} without a table, None if the table has no such row. Raises
        DataError where several rows have the identifier in other forms (12 and 0012)."""
        if not self.holds:
            return {}
        found = identifiers[self.holds]
        if found in self.rows or not found:
            return self.rows.get(found)
        forms = self.of_form.get(identify(found), ())
        if len(forms) > 1:
            raise DataError(f"its {self.holds} stands in the table of reports in several forms, such as 12 and 0012")
        return self.rows[forms[0]] if forms else None
