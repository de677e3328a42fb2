"""Files that a data card names by their place beside it. Their contents become part of the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationInfo

from medvlm.core.document import read_yaml
from medvlm.core.errors import RecipeError

FOLDER, READ = "folder", "read"
"""Keys of the context in which a card is validated: its folder, and a list of the names of files that were read."""


def read_beside(name: str, info: ValidationInfo) -> dict[str, Any]:
    """The YAML file of this name beside the card. Raises ValueError if there is none, or if it is no YAML mapping."""
    context = info.context or {}
    folder: Path | None = context.get(FOLDER)
    if folder is None:
        raise ValueError(f"{name!r} is a file beside a data card, and this is in no card; write its contents instead")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise ValueError(f"there is no file {name!r} beside the card; put it there, or write its contents instead")
    try:
        found = read_yaml(path, name).data
    except RecipeError as reason:
        raise ValueError(str(reason)) from None
    context[READ].append(name)
    return found
