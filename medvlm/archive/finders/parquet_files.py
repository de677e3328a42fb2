"""Parquet files of `datasets`, with the images inside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from medvlm.archive import arrow_files
from medvlm.archive.finders._columns import plan_columns
from medvlm.archive.finders._folder import SPLITS, Folder, Found
from medvlm.archive.tables.records import cell_text
from medvlm.core.errors import list_some

ORDER = 0
LOOKED_AT = 2000
"""Rows whose values say what a column is."""


def find(folder: Folder) -> Iterator[Found]:
    """Raises DataError if pyarrow is not installed, and for a damaged file."""
    files = folder.ending(".parquet")
    if not files:
        return
    names, classes = arrow_files.schema(folder.root / files[0])
    _, first = next(arrow_files.rows(folder.root / files[0], sorted(names)), (0, {}))
    images = [name for name in sorted(names) if _is_image(first.get(name))]
    if not images:
        return
    others = sorted(names - set(images))
    rows = []
    for _, record in islice((row for file in files for row in arrow_files.rows(folder.root / file, others)), LOOKED_AT):
        cells = {name: cell_text(value) if not isinstance(value, dict) else None for name, value in record.items()}
        for name, known in classes.items():
            if (text := cells.get(name) or "").isdecimal() and int(text) < len(known):
                cells[name] = known[int(text)]
        rows.append({name: text for name, text in cells.items() if text is not None})
    image = folder.roles.get("image", images[0])
    plan = plan_columns(rows, [], {role: name for role, name in folder.roles.items() if role != "image"})
    reader: dict[str, Any] = {
        "kind": "hf_dataset",
        "file": _by_split(files) or (files[0] if len(files) == 1 else "**/*.parquet"),
        "media": [{"column": image, "kind": "image"}],
        **plan.reader,
    }
    unknown = []
    if len(images) > 1:
        unknown.append(f"whether the images in {list_some(images[1:])} belong to the sample: only {image} is read")
    if plan.unused:
        unknown.append(f"what these columns are for, which are not read: {list_some(plan.unused)}")
    number = sum(arrow_files.num_rows(folder.root / file) for file in files)
    what = f"{len(files)} parquet files with {number} rows and their images: {'; '.join(plan.asks) or 'nothing to ask'}"
    yield Found(what, reader, number, patient=plan.patient, unknown=tuple(unknown))


def _is_image(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and _is_image(value[0])
    return isinstance(value, bytes) or (isinstance(value, dict) and isinstance(value.get("bytes"), bytes))


def _by_split(files: list[str]) -> dict[str, str]:
    """Split -> pattern of its files, for names such as data/train-00000-of-00003.parquet."""
    found: dict[str, str] = {}
    for name in files:
        match = re.search(r"(?:^|/)([a-z]+)(?:-\d+-of-\d+)?\.parquet$", name)
        split = SPLITS.get(match[1]) if match else None
        if match is None or split is None:
            return {}
        found[split] = f"{name[: match.start(1)]}{match[1]}*.parquet" if "-of-" in name else name
    return found if len(found) > 1 else {}
