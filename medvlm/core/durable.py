"""Writes files that survive a power failure, complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from medvlm.core.errors import RecipeError
from medvlm.core.text import has_lone_surrogate


def write_durably(path: Path, text: str) -> None:
    """Writes under another name and renames. Call sync_folder() if the new name must survive a power failure too."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def require_local(path: Path) -> None:
    """Raises RecipeError for what is no place for files on this machine: an address, or a path that is not UTF-8, which
    tokenizers and safetensors cannot write to."""
    if len(path.parts) > 1 and path.parts[0].endswith(":"):
        raise RecipeError(f"{path}: is an address; name a place on this machine")
    if has_lone_surrogate(os.path.abspath(path)):
        raise RecipeError(f"{path}: its name is not UTF-8, and not all libraries can write there; name another place")


def require_place(path: Path, begins: bytes) -> None:
    """Raises RecipeError if no file can be written there, or if one of another kind would be lost. begins: the first
    bytes of the files that may be replaced."""
    require_local(path)
    if path.is_dir() or not path.name:
        raise RecipeError(f"{path}: is a folder; name a file to write to")
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(len(begins)) != begins:
                raise RecipeError(f"{path}: is a file of another kind, which would be lost; name another one")


def sync_folder(folder: Path) -> None:
    """Syncs the names of the files in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
