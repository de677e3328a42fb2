"""Hashes of an export's files at the time of its parity proof, checked again before an upload."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from medvlm.core.run import write_json

FILES = "medvlm/files.json"
OPEN = {"README.md", FILES}
"""Files without a hash: people may edit the model card, and the list of hashes cannot contain itself."""


def seal(folder: Path) -> None:
    write_json(folder / FILES, {path: _hash_file(folder / path) for path in _list_paths(folder)})


def find_changed(folder: Path) -> list[str]:
    """Files that were removed or changed since the proof. New files are not reported."""
    sealed: dict[str, str] = json.loads((folder / FILES).read_text())
    return [
        path for path, digest in sealed.items() if not (folder / path).is_file() or _hash_file(folder / path) != digest
    ]


def _list_paths(folder: Path) -> list[str]:
    return [path for p in sorted(folder.rglob("*")) if p.is_file() and (path := str(p.relative_to(folder))) not in OPEN]


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
