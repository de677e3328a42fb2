"""COCO: a JSON file of images, annotations and categories, or one for each split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from medvlm.archive.finders._folder import SPLITS, Folder, Found, ask_about_objects, folder_of
from medvlm.archive.tables.records import document
from medvlm.core.errors import DataError

ORDER = 1
LARGEST = 1 << 29
"""Bytes of a JSON file that is opened."""


def find(folder: Folder) -> Iterator[Found]:
    files = {name: content for name in folder.ending(".json") if (content := _read(folder, name))}
    if not files:
        return
    first = next(iter(files))
    categories = {str(each.get("name", "")).strip() for each in files[first]["categories"]}
    used = {each.get("category_id") for content in files.values() for each in content["annotations"]}
    named = {str(each.get("name", "")).strip() for each in files[first]["categories"] if each.get("id") in used}
    classes = sorted(named or categories)
    if not classes or (images := _find_images(folder, files[first])) is None:
        return
    splits = _by_split(list(files))
    patient = next((key for key in ("patient_id", "patient", "subject_id") if key in files[first]["images"][0]), "")
    reader: dict[str, Any] = {
        "kind": "coco",
        "file": splits or first,
        **({"images": images} if images else {}),
        "medium": "image",
        **({"patient": f"{{{patient}}}"} if patient else {}),
        **ask_about_objects(classes),
    }
    number = sum(len(content["images"]) for content in (files.values() if splits else [files[first]]))
    what = f"COCO: {number} images with boxes of {len(classes)} classes ({', '.join(splits.values()) or first})"
    yield Found(what, reader, number, patient=patient)


def _read(folder: Folder, name: str) -> dict[str, Any]:
    """The content of a COCO file, {} for any other."""
    path = folder.root / name
    with path.open("rb") as file:
        if path.stat().st_size > LARGEST or file.read(64).lstrip()[:1] != b"{":
            return {}
    try:
        content = document(path)
    except DataError:
        return {}
    lists = [content.get(key) for key in ("images", "annotations", "categories")]
    is_coco = all(isinstance(each, list) and each and isinstance(each[0], dict) for each in lists)
    return content if is_coco and "file_name" in content["images"][0] else {}


def _find_images(folder: Folder, content: dict[str, Any]) -> str | None:
    """The folder that `file_name` is relative to; None if the images are not there."""
    name = str(content["images"][0]["file_name"])
    for path in folder.files:
        if path == name or path.endswith(f"/{name}"):
            return path[: len(path) - len(name)].rstrip("/")
    return None


def _by_split(names: list[str]) -> dict[str, str]:
    """Split -> its file, if each file names another split."""
    found: dict[str, str] = {}
    for name in names:
        words = re.split(r"[\W_\d]+", name.rpartition("/")[2].lower()) + folder_of(name).lower().split("/")
        split = next((SPLITS[word] for word in words if word in SPLITS), "")
        if not split or split in found:
            return {}
        found[split] = name
    return found if len(found) > 1 else {}
