"""Archives with one file for each split."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Name = Annotated[str, Field(min_length=1)]
Files = Name | Annotated[dict[Literal["train", "val", "test"], Name], Field(min_length=1)]
"""One file for all splits, or split -> its file (`annotations.json#train` for a JSON file with a list for each split).
Set the card's `splits.by` to `column` to keep the archive's own splits."""

SPLIT = "{split of the file}"
"""The template of a column added to each row: the split of its file, "" if there is one file for all."""


def by_split(files: Files) -> list[tuple[str, str]]:
    """(split, file) in the order of the card; the split is "" for one file for all."""
    return [("", files)] if isinstance(files, str) else list(files.items())
