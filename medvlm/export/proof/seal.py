"""Hashes of an export's files at the time of its parity proof, checked again before an upload."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from medvlm.core.errors import RecipeError
from medvlm.core.run import write_json

FILES = "medvlm/files.json"
OPEN = {"README.md", FILES}
"""Files without a hash: people may edit the model card, and the list of hashes cannot contain itself."""


def seal(folder: Path) -> None:
    write_json(folder / FILES, {path: _hash_file(folder / path) for path in _list_paths(folder)})


def find_changed(folder: Path) -> list[str]:
    """Files that were removed or changed since the proof. See find_added for new ones."""
    sealed = _read(folder)
    return [
        path for path, digest in sealed.items() if not (folder / path).is_file() or _hash_file(folder / path) != digest
    ]


def find_added(folder: Path) -> list[str]:
    """Files, and links of any kind, that the export did not write."""
    sealed = {*_read(folder), *OPEN}
    present = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_symlink() or not p.is_dir()}
    return [path for path, file in present.items() if path not in sealed or file.is_symlink()]


def _read(folder: Path) -> dict[str, str]:
    """Raises RecipeError if the list of hashes cannot be read."""
    try:
        sealed = json.loads((folder / FILES).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        sealed = None
    if not isinstance(sealed, dict) or not all(isinstance(digest, str) for digest in sealed.values()):
        raise RecipeError(f"{folder / FILES}: cannot be read as the list of exported files; export the model again")
    return sealed


def _list_paths(folder: Path) -> list[str]:
    return [path for p in sorted(folder.rglob("*")) if p.is_file() and (path := str(p.relative_to(folder))) not in OPEN]


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
