"""A folder for each class, with its images: `effusion/1.png`, or `train/effusion/1.png`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from medvlm.archive.finders._columns import ask_class
from medvlm.archive.finders._folder import (
    SPLITS,
    Folder,
    Found,
    count_of,
    folder_of,
    one_of,
    suffix_of,
)
from medvlm.archive.finders._masks import is_mask_word
from medvlm.archive.finders._slides import describe_slides
from medvlm.archive.finders._volumes import describe_volumes

ORDER = 5
LEAST, MOST_CLASSES = 3, 50
"""Images that a class must have, and classes that there may be."""


def find(folder: Folder) -> Iterator[Found]:
    for kind, names in folder.of_kind.items():
        split_parts, classes = _find_classes(names)
        if not classes:
            continue
        every = sorted(classes)
        taken = [name for name in names if folder_of(name).rpartition("/")[2] in classes]
        suffixes = sorted({suffix_of(name) for name in taken})
        split = f"(?:.*/)?(?P<split>{one_of(sorted(split_parts))})/" if split_parts else "(?:.*/)?"
        needs = (describe_volumes if kind == "volume" else describe_slides)(folder.root, taken)
        reader: dict[str, Any] = {
            "kind": "folder",
            "images": f"{split}(?P<label>{one_of(every)})/[^/]+(?i:{one_of(suffixes)})",
            "medium": kind,
            **needs.options,
        }
        if split_parts:
            reader |= {"split": "{split}", "rename": {"split": {part: SPLITS[part.lower()] for part in split_parts}}}
        reader["questions"] = ask_class("label", "What does this image show?", every)
        yield Found(
            f"{len(every)} folders of classes with {count_of(len(taken), kind)}"
            f" ({', '.join(f'{name} {classes[name]}' for name in every[:6])}{' ...' if len(every) > 6 else ''})",
            reader,
            len(taken),
            kind,
            unknown=needs.unknown,
            window=needs.window,
        )


def _find_classes(names: list[str]) -> tuple[set[str], Counter[str]]:
    """The folders that say splits, and class -> its images; empty if the folders are no classes."""
    places = Counter(folder_of(name) for name in names)
    if "" in places:
        return set(), Counter()
    classes = Counter[str]()
    split_parts: set[str] = set()
    parents: set[str] = set()
    for place, count in places.items():
        parent, _, label = place.rpartition("/")
        if is_mask_word(label) or label.lower() in SPLITS:
            return set(), Counter()
        last = parent.rpartition("/")[2]
        if last.lower() in SPLITS:
            split_parts.add(last)
            parent = parent.rpartition("/")[0]
        parents.add(parent)
        classes[label] += count
    fits = len(parents) == 1 and 2 <= len(classes) <= MOST_CLASSES and min(classes.values()) >= LEAST
    return (split_parts, classes) if fits else (set(), Counter())
