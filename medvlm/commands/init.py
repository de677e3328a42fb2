"""`medvlm init`: writes a recipe and a data card for a table of images and texts, with a split by patient."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from medvlm.archive.finders._columns import list_names
from medvlm.archive.finders._folder import KINDS, suffix_of
from medvlm.archive.tables.records import cell_text, find_fault, format_of, guess_delimiter, records
from medvlm.commands.first_files import describe_splits, make_name, require_free, write_first
from medvlm.commands.first_recipe import SOURCE, TableColumns, TableRow, make_card, make_recipe
from medvlm.commands.first_splits import split_by_image, split_by_patient
from medvlm.core.cell_values import is_nothing
from medvlm.core.document import to_yaml
from medvlm.core.durable import require_local
from medvlm.core.errors import DataError, did_you_mean, list_some
from medvlm.recipe.known import look_up_model

MAX_BAD = 0.01
"""As in packing: with a larger share of unusable rows, the table has a mistake to fix first."""


def init(model: str, table: Path, columns: TableColumns, to: Path) -> list[str]:
    """Writes recipe.yaml, card.yaml and the secret file `salt` to the folder `to`; returns lines to print.

    Raises DataError for a table that cannot be used, naming lines and columns, and RecipeError for a model that is
    missing or of the wrong kind."""
    require_local(to)
    found = look_up_model(model)
    require_free(to)
    rows, notes = _read_rows(table, columns)
    root, file = _find_root(table, rows)
    kind = _find_kind(rows)
    found_splits = (
        split_by_patient(table.stem, rows, columns.patient)
        if columns.patient
        else split_by_image(table.stem, table.parent, rows)
    )
    images, splits = found_splits.images, found_splits.splits
    name = make_name(table.stem)
    recipe = make_recipe(name, found, kind, columns, images["train"])
    recipe["data"] = {SOURCE: {"card": "card.yaml", "root": str(root), "salt_file": str((to / "salt").resolve())}}
    head = f"# Written by medvlm init for {table.name}. Check it and change what does not fit.\n"
    write_first(to, head + to_yaml(recipe), head + to_yaml(make_card(name, file, kind, columns, rows, splits)))
    return [
        (
            f"wrote {to / 'recipe.yaml'}, {to / 'card.yaml'} and {to / 'salt'} (a secret that hashes patients and file"
            " names in the shards; keep it, but not in version control)"
        ),
        f"{len(rows)} rows, {len({row.image for row in rows})} images; {describe_splits(found_splits)}",
        *notes,
        *(
            []
            if columns.patient
            else [
                "no --patient: images are split one by one, so images of one patient may be in several splits, which"
                " makes results look better than they are"
            ]
        ),
        *(
            []
            if found.folder
            else [
                f"{model}: access was not checked; a gated model needs `hf auth login`; without a network, give --model"
                " the path of its folder"
            ]
        ),
        (
            f"next: medvlm validate {shlex.quote(str(to / 'recipe.yaml'))}; medvlm plan ...; medvlm dry-run ...;"
            " medvlm train ..."
        ),
    ]


def _read_rows(table: Path, columns: TableColumns) -> tuple[list[TableRow], list[str]]:
    """The usable rows, and a note about the others."""
    wanted = [
        name for name in (columns.image, columns.question, columns.answer, columns.captions, columns.patient) if name
    ]
    rows: list[TableRow] = []
    bad: list[tuple[str, str]] = []
    for number, record in records(table, format_of(table.name)):
        if not rows and not bad:
            _check_columns(table, wanted, record)
        place, cells = f"line {number}", {name: cell_text(record.get(name)) or "" for name in wanted}
        if fault := find_fault(record):
            bad.append((place, fault))
        elif empty := [name for name, text in cells.items() if not text or is_nothing(text)]:
            bad.append((place, f"no value in column {empty[0]}"))
        elif not (table.parent / cells[columns.image]).is_file():
            bad.append((place, f"the file in column {columns.image} does not exist"))
        else:
            rows.append(
                TableRow(
                    place,
                    cells[columns.image],
                    cells.get(columns.question, ""),
                    cells.get(columns.answer) or cells[columns.captions],
                    cells.get(columns.patient, ""),
                )
            )
    if not rows and not bad:
        raise DataError(f"{table}: has no rows; expected a line with the names of the columns, and a row per question")
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    reasons = "; ".join(f"{place}: {why}" for place, why in bad[:5]) + more
    if not rows or len(bad) > MAX_BAD * (len(rows) + len(bad)):
        raise DataError(
            f"{table}: {len(bad)} of {len(rows) + len(bad)} rows cannot be used ({reasons}); paths"
            " must be absolute, or relative to the table's folder"
        )
    return rows, [f"{len(bad)} rows cannot be used and will be quarantined ({reasons})"] if bad else []


def _check_columns(table: Path, wanted: list[str], record: Any) -> None:
    names = [str(name) for name in record] if isinstance(record, dict) else []
    for name in wanted:
        if name not in names:
            raise DataError(
                f"{table}: no column {name!r}{did_you_mean(name, names)}{list_names(names)}{guess_delimiter(names)}"
            )


def _find_root(table: Path, rows: list[TableRow]) -> tuple[Path, str]:
    """The folder that contains table and images, and the table's path in it."""
    folders = {table.parent.resolve(), *(Path(row.image).parent for row in rows if Path(row.image).is_absolute())}
    root = Path(os.path.commonpath(folders))
    if root != table.parent.resolve() and not all(Path(row.image).is_absolute() for row in rows):
        raise DataError(
            f"{table}: some paths are relative and others are outside of its folder; make all of them relative to it,"
            " or all absolute"
        )
    return root, table.resolve().relative_to(root).as_posix()


def _find_kind(rows: list[TableRow]) -> str:
    kinds: dict[str, str] = {}
    for row in rows:
        suffix = suffix_of(row.image)
        if suffix not in KINDS:
            raise DataError(
                f"{row.place}: files with the suffix {suffix or '(none)'} are not supported (expected"
                f" {list_some(KINDS)})"
            )
        kinds.setdefault(KINDS[suffix], row.place)
    if len(kinds) > 1:
        raise DataError(
            "the table has both pictures and volumes ("
            + ", ".join(f"{kind}: {place}" for kind, place in kinds.items())
            + "); make a table and a card for each"
        )
    return next(iter(kinds))
