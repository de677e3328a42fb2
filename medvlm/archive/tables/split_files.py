"""Archives with one file for each split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from medvlm.core.errors import DataError

Name = Annotated[str, Field(min_length=1)]
Files = Name | Annotated[dict[Literal["train", "val", "test"], Name], Field(min_length=1)]
"""One file for all splits, or split -> its file (`annotations.json#train` for a JSON file with a list for each split).
Set the card's `splits.by` to `column` to keep the archive's own splits."""

SPLIT = "{split of the file}"
"""The template of a column added to each row: the split of its file, "" if there is one file for all."""


def find_files(root: Path, files: Files) -> list[tuple[str, str]]:
    """As by_split(), with the files of a pattern in the order of their names, relative to the root. Raises DataError
    for a pattern that no file matches."""
    found = []
    for split, name in by_split(files):
        names = [name]
        if "*" in name:
            names = sorted(path.relative_to(root).as_posix() for path in root.glob(name) if path.is_file())
            if not names:
                raise DataError(f"{root / name}: no file matches; reader.file of the card is relative to the root")
        found += [(split, each) for each in names]
    return found


def by_split(files: Files) -> list[tuple[str, str]]:
    """(split, file) in the order of the card; the split is "" for one file for all."""
    return [("", files)] if isinstance(files, str) else list(files.items())
