"""A table (CSV, TSV, JSON lines, JSON) with a row for each image, volume or slide, or for each question about one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from medvlm.archive.finders._columns import ColumnPlan, list_names, plan_columns, require_columns
from medvlm.archive.finders._folder import (
    KINDS,
    Folder,
    Found,
    ask_about_objects,
    count_of,
    folder_of,
    stem_of,
    suffix_of,
)
from medvlm.archive.finders._masks import is_mask_word, read_values
from medvlm.archive.finders._rows import read_rows
from medvlm.archive.finders._slides import describe_slides
from medvlm.archive.finders._volumes import IN_MM, describe_volumes
from medvlm.core.cell_values import strip
from medvlm.core.errors import DataError, list_some

ORDER = 4
TRIED = 200
"""Rows in which a column of files is looked for."""
MAX_CLASSES = 50
CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"))
"""Columns of a box in pixels: left, top, right, bottom."""
SHARE = 0.5
"""Of these rows, at least so many have a file."""


def find(folder: Folder) -> Iterator[Found]:
    """Raises DataError for a table that the user names and that names no files, and for a column that is not there."""
    for name in [folder.table] if folder.table else folder.ending(".csv", ".tsv", ".jsonl", ".json"):
        rows = read_rows(folder, name)
        if not rows:
            continue
        if folder.table:
            require_columns(rows[0].keys(), folder.roles)
        files = _find_files(folder, name, rows)
        if not files:
            if folder.table:
                raise DataError(
                    f"{name}: no column names files of the folder{list_names(rows[0].keys())}; say which one does by"
                    " --image, and give the folder that holds the files by --data"
                )
            continue
        yield _propose(folder, name, rows, files)


def _find_files(folder: Folder, table: str, rows: Sequence[dict[str, str]]) -> dict[str, str]:
    """Column -> template of the path of its file under the root, of the columns that name files. That of the user's
    --image is the first."""
    by_stem: dict[str, list[str]] = {}
    for path in folder.files:
        if KINDS.get(suffix_of(path)):
            by_stem.setdefault(stem_of(path), []).append(path)
    columns = list(rows[0])
    if image := folder.roles.get("image"):
        columns = [image, *(name for name in columns if name != image)]
    found: dict[str, str] = {}
    for column in columns:
        templates: Counter[str] = Counter()
        some = rows[:TRIED]
        for row in some:
            templates.update(_list_templates(row.get(column, ""), column, by_stem, folder_of(table)))
        if templates and (best := templates.most_common(1)[0])[1] >= SHARE * len(some):
            found[column] = best[0]
    return found


def _list_templates(cell: str, column: str, by_stem: dict[str, list[str]], beside: str) -> set[str]:
    """The templates by which the value of a column is a file: all of the path, the end of it, or its bare name."""
    text = strip(cell)
    name = text.rpartition("/")[2]
    if not name:
        return set()
    found = set[str]()
    for path in (*by_stem.get(stem_of(name), ()), *by_stem.get(name, ())):
        if path == text or path.endswith(f"/{text}"):
            found.add(f"{path[: len(path) - len(text)]}{{{column}}}")
        elif text == stem_of(path):
            found.add(f"{path[: len(path) - len(path.rpartition('/')[2])]}{{{column}}}{_suffix_as_written(path)}")
    return found


def _suffix_as_written(path: str) -> str:
    return path[len(path) - len(suffix_of(path)) :]


def _propose(folder: Folder, name: str, rows: list[dict[str, str]], files: dict[str, str]) -> Found:
    named = {column: [_fill(template, column, row) for row in rows] for column, template in files.items()}
    masks = {column for column in files if is_mask_word(column.rpartition("_")[0] or column) or is_mask_word(column)}
    images = [column for column in files if column not in masks] or list(files)
    column = images[0]
    kind = KINDS[suffix_of(named[column][0])]
    roles = {role: name for role, name in folder.roles.items() if role != "image"}
    objects = _find_objects(rows, files)
    spoken_for = [*files, *(() if objects is None else (objects["named"], *objects["corners"]))]
    plan: ColumnPlan = plan_columns(rows, spoken_for, roles, named[column])
    there = [path for path in dict.fromkeys(named[column]) if path in set(folder.files)]
    needs = (describe_volumes if kind == "volume" else describe_slides)(folder.root, there)
    medium = {"file": files[column], "kind": kind, **needs.options}
    reader: dict[str, Any] = {"kind": "table", "file": name, "media": [medium]}
    asks, unknown = list(plan.asks), list(needs.unknown)
    if objects is not None:
        reader["objects"] = objects
        asks.append(f"boxes of {list_some(objects['classes'])}")
    for mask in sorted(masks - {column}):
        reader["mask"], what = _read_mask(folder, files[mask], named[mask])
        asks.append(f"the masks in {mask}")
        unknown.append(what)
        break
    if more := [each for each in images[1:] if each not in masks]:
        unknown.append(f"whether the files in {list_some(more)} belong to the sample: only those in {column} are read")
    if plan.unused:
        unknown.append(f"what these columns are for, which are not read: {list_some(plan.unused)}")
    what = f"a table of {len(rows)} rows ({name}) about {count_of(len(there), kind)}"
    what += f" (column {column}): {'; '.join(asks)}" if asks else f" (column {column}), without a column to learn from"
    return Found(
        what,
        {**reader, **plan.reader},
        len(there),
        kind,
        patient=plan.patient,
        unknown=tuple(unknown),
        window=needs.window,
    )


def _find_objects(rows: list[dict[str, str]], files: dict[str, str]) -> dict[str, Any] | None:
    """The settings of a table with a box in each row; None for any other table."""
    of_name = {re.sub(r"[\W_]", "", name.lower()): name for name in rows[0]}
    corners = next((each for each in CORNERS if set(each) <= of_name.keys()), None)
    if corners is None:
        return None
    used = {*files, *(of_name[corner] for corner in corners)}
    for name in rows[0]:
        values = {strip(row.get(name, "")) for row in rows} - {""}
        is_named = 0 < len(values) <= MAX_CLASSES and not any(value.replace(".", "").isdecimal() for value in values)
        if name not in used and is_named:
            places = [of_name[corner] for corner in corners]
            return {"named": name, "corners": places, **ask_about_objects(sorted(values))}
    return None


def _fill(template: str, column: str, row: dict[str, str]) -> str:
    return template.replace(f"{{{column}}}", strip(row.get(column, "")))


def _read_mask(folder: Folder, template: str, names: list[str]) -> tuple[dict[str, Any], str]:
    there = [name for name in dict.fromkeys(names) if name in set(folder.files)]
    values = read_values(folder.root, there)
    nifti = IN_MM if suffix_of(there[0]) in (".nii", ".nii.gz") else {}
    if values.is_binary:
        mask = {"file": template, "values": {"region": []}, "threshold": values.threshold, "template": "region"}
        return {**mask, **nifti}, "what the masks mark: it is called 'region'"
    classes = {f"label {value}": value for value in values.values}
    return {"file": template, "values": classes, "template": "regions", **nifti}, (
        "what the values of the masks mean: rename the classes in reader.mask.values"
    )
