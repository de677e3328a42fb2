"""The files of an export as they were when it was proven: sizes and hashes, checked before it is passed on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from medvlm.core.run import write_json

FILES = "medvlm/files.json"
OPEN = {"README.md", FILES}
"""The card may be written on by people; the list does not hold itself."""


def seal(folder: Path) -> None:
    write_json(folder / FILES, {path: _sha256(folder / path) for path in _paths(folder)})


def changed(folder: Path) -> list[str]:
    """Files that are gone or hold something else than at the proof. New ones are none of this list's business."""
    sealed: dict[str, str] = json.loads((folder / FILES).read_text())
    return [
        path for path, digest in sealed.items() if not (folder / path).is_file() or _sha256(folder / path) != digest
    ]


def _paths(folder: Path) -> list[str]:
    return [path for p in sorted(folder.rglob("*")) if p.is_file() and (path := str(p.relative_to(folder))) not in OPEN]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
