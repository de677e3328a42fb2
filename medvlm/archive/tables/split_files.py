"""Archives that have a file for each split."""

from __future__ import annotations

from typing import Literal

Files = str | dict[Literal["train", "val", "test"], str]
"""One file for all, or split -> its file (of a JSON file with a list for each split, `annotations.json#train`). The
card's `splits.by` is `column` where the archive's own splits are to be kept."""

SPLIT = "{split of the file}"
"""The template of a column that rows have besides their own: "" where there is one file for all."""


def by_split(files: Files) -> list[tuple[str, str]]:
    """(split, file) in the order of the card; the split is "" for one file for all."""
    return [("", files)] if isinstance(files, str) else list(files.items())
