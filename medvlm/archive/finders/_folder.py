"""A folder that somebody wants to train on, and what a finder says about it.

A finder (`archive/finders/KIND.py`) has `find(folder) -> Iterator[Found]` and `ORDER`: proposals of a lower one come
first. It opens as few files as it can, and yields nothing for a folder of another layout.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from medvlm.core.config import component, kinds

KINDS = {
    ".png": "image",
    ".jpg": "image",
    ".jpeg": "image",
    ".webp": "image",
    ".bmp": "image",
    ".gif": "image",
    ".jp2": "image",
    ".tif": "image",
    ".tiff": "image",
    ".svs": "image",
    ".dcm": "image",
    ".dicom": "image",
    ".nii": "volume",
    ".nii.gz": "volume",
}
"""Suffix of a file -> its kind of media in the card."""
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Names of folders and files that say a split."""
FEW = 1 / 3
"""A proposal with fewer samples than this share of another one comes after it."""
MAX_BOXES = 24
"""Images with more objects of a class are not asked where they are: such an answer has hundreds of tokens."""


@dataclass(frozen=True)
class Found:
    """A proposal of how to read a folder.

    what: in words, for the user. reader: of the card. samples: about how many there are. media: their kind. units: of
    the card. patient: what identifies a patient, "" if nothing does. unknown: what only the user can know, a sentence
    each. window: of stored intensities, as `preprocess.window`; () for none.
    """

    what: str
    reader: dict[str, Any]
    samples: int
    media: str = "image"
    units: str = ""
    patient: str = ""
    unknown: tuple[str, ...] = ()
    window: tuple[float, float] | tuple[()] = ()


@dataclass(frozen=True)
class Needs:
    """What a card must say to read files of a kind. options: keys of a reader or medium. unknown and window: as in
    Found."""

    options: dict[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    window: tuple[float, float] | tuple[()] = ()


@dataclass(frozen=True)
class Folder:
    """files: paths under the root, sorted. roles: image, question, answer, captions, patient -> the column of a table
    that the user gives this role. table: the table to read, "" for any."""

    root: Path
    files: tuple[str, ...]
    roles: Mapping[str, str] = field(default_factory=dict)
    table: str = ""

    @cached_property
    def of_kind(self) -> dict[str, list[str]]:
        """Kind of media -> its files."""
        found: dict[str, list[str]] = {"image": [], "volume": []}
        for name in self.files:
            if kind := KINDS.get(suffix_of(name)):
                found[kind].append(name)
        return found

    def ending(self, *suffixes: str) -> list[str]:
        return [name for name in self.files if name.lower().endswith(suffixes)]


def list_folder(root: Path, without: Path, roles: Mapping[str, str], table: str = "") -> Folder:
    """without: a folder whose files are not looked at, because they are written there."""
    names = []
    for at, folders, files in os.walk(root):
        folders[:] = sorted(each for each in folders if each[0] not in "._" and (Path(at) / each) != without)
        names += [(Path(at) / name).relative_to(root).as_posix() for name in files if name[0] not in "._"]
    return Folder(root, tuple(sorted(names)), roles, table)


def find_layouts(folder: Folder) -> list[Found]:
    """What all finders propose, the most telling first, and those of a few of the samples last. If the user names a
    table, only what reads it."""
    finders = sorted((component("archive.finders", kind) for kind in kinds("archive.finders")), key=lambda f: f.ORDER)
    every = [found for finder in finders for found in finder.find(folder)]
    if folder.table:
        every = [each for each in every if folder.table in (each.reader.get("file"), _table_of(each))]
    most = max((each.samples for each in every), default=0)
    return sorted(every, key=lambda each: each.samples < FEW * most)


def _table_of(found: Found) -> str:
    return str(found.reader.get("reports", {}).get("file", ""))


def suffix_of(name: str) -> str:
    """`.nii.gz` for `a.nii.gz`, in lower case."""
    found = re.search(r"(\.nii\.gz|\.[^./]+)$", name.lower())
    return found[1] if found else ""


def stem_of(name: str) -> str:
    """`a` for `x/a.nii.gz`."""
    last = name.rpartition("/")[2]
    return last[: len(last) - len(suffix_of(last))]


def folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def count_of(number: int, kind: str) -> str:
    """`1 image`, `3 volumes`."""
    return f"{number} {kind}{'' if number == 1 else 's'}"


def plural(word: str) -> str:
    if word.endswith("s"):
        return word
    if word.endswith(("x", "ch", "sh")):
        return f"{word}es"
    return f"{word[:-1]}ies" if re.search(r"[^aeiou]y$", word) else f"{word}s"


def ask_about_objects(classes: list[str], mask: str = "") -> dict[str, Any]:
    """Keys of a reader of boxes: its classes, and questions how many there are, where, and whether there are any. mask:
    the template of the question for masks, which are then kept; "" for none."""
    return {
        "classes": {name: {"one": spoken(name), "many": plural(spoken(name))} for name in classes},
        "count": {"wordings": ["How many {many} are in this image?"]},
        "boxes": {"wordings": ["Where are the {many}?"], "max_boxes": MAX_BOXES},
        "presence": {"wordings": ["Are there any {many} in this image?"]},
        **({"mask": {"template": mask}} if mask else {}),
    }


def one_of(words: list[str]) -> str:
    """A regular expression for any of the words."""
    return "|".join(map(re.escape, words))


def spoken(name: str) -> str:
    """A name of a column, file or folder as words of a sentence: `Pleural_Effusion` -> `pleural effusion`."""
    words = " ".join(re.sub(r"[_\W]+", " ", name).split())
    return words if words.isupper() else words.lower()
