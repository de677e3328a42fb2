"""Conversations about images: LLaVA's JSON, ShareGPT's, chat messages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from medvlm.archive.finders._folder import Folder, Found
from medvlm.archive.tables.records import format_of, records
from medvlm.core.errors import DataError

ORDER = 2
LARGEST = 1 << 31
TURNS = ("conversations", "conversatons", "messages")


def find(folder: Folder) -> Iterator[Found]:
    for name in folder.ending(".json", ".jsonl"):
        first = _read_some(folder, name)
        key = next((key for key in TURNS if first and all(isinstance(each.get(key), list) for each in first)), "")
        if not key or (images := _find_images(folder, first)) is None:
            continue
        several = any(len(each[key]) > 2 for each in first)
        reader: dict[str, Any] = {
            "kind": "llava_json",
            "file": name,
            **({"images": images} if images else {}),
            "medium": "image",
            "turns": [key],
            **({"dialogue": True} if several else {}),
        }
        yield Found(f"conversations about images ({name})", reader, len(folder.of_kind["image"]))


def _read_some(folder: Folder, name: str) -> list[dict[str, Any]]:
    path = folder.root / name
    if path.stat().st_size > LARGEST:
        return []
    try:
        found = [record for _, record in islice(records(path, format_of(name)), 50)]
    except DataError:
        return []
    return found if all(isinstance(each, dict) for each in found) else []


def _find_images(folder: Folder, first: list[dict[str, Any]]) -> str | None:
    """The folder that the records' images are relative to; None if none of them is there."""
    named = [name for each in first for name in _as_list(each.get("image", each.get("images")))]
    for name in named:
        for path in folder.files:
            if path == name or path.endswith(f"/{name}"):
                return path[: len(path) - len(name)].rstrip("/")
    return None


def _as_list(value: Any) -> list[str]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
