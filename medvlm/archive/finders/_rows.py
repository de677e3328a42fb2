"""The rows of a table that a finder looks at, as text."""

from __future__ import annotations

from typing import Any

from medvlm.archive.finders._folder import Folder
from medvlm.archive.tables.records import cell_text, format_of, records
from medvlm.core.errors import DataError

LARGEST = 1 << 30
"""Bytes of a table that is opened."""


def read_rows(folder: Folder, name: str) -> list[dict[str, str]]:
    """The rows of a table as text; none for what is no table."""
    path = folder.root / name
    if path.stat().st_size > LARGEST:
        return []
    try:
        found = [record for _, record in records(path, format_of(name))]
    except DataError:
        if folder.table:
            raise
        return []
    if not found or not all(isinstance(record, dict) for record in found):
        return []
    return [
        {str(key): text for key, value in record.items() if key and (text := _read_cell(value)) is not None}
        for record in found
    ]


def _read_cell(value: Any) -> str | None:
    return None if isinstance(value, dict) else cell_text(value) if isinstance(value, str | int | float | list) else ""
