"""A table and the files it names: CSV, TSV, JSON lines or a JSON list of records, described by the card alone.

Rows with the same key are one sample; _rows.py says how. Columns may also
come from other tables, from files of text, or from parts of a value (`join`, `texts`, `parts`), and `prior` gives a row
what the patient's study before it says: with a medium of `{prior.path}` before that of `{path}`, a sample is a pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from medvlm.archive.mask_labels import MEMBER, TableMask, ask_for_labels, find_loader
from medvlm.archive.media_file import FileOptions, finds_tiles, media_of
from medvlm.archive.objects import list_object_offers, list_object_tasks, questions, sort_by_class
from medvlm.archive.readers._rows import (
    Numbered,
    Rows,
    check_columns,
    find_common,
    group_rows,
    list_columns,
    list_splits_of,
    make_sample,
    read_row,
    say_place,
)
from medvlm.archive.tables.columns import Columns, Row, columns_in, file_in, fill
from medvlm.archive.tables.questions import list_offers, list_tasks_of
from medvlm.archive.tables.records import Format, format_of, records
from medvlm.archive.tables.row_objects import RowObjects, list_object_rows, objects_of, survey_boxes
from medvlm.archive.tables.split_files import SPLIT, Files, by_split, find_files
from medvlm.core.content import Content, Offer, name_asked
from medvlm.core.contracts import BadSample, Deferred, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Unit
from medvlm.io.images import peek_size

FILES_SURVEYED = 1000


class TableMedium(FileOptions):
    file: str
    """Path under the root, e.g. `images/{filename}` (`{split of the file}` is the key of the table in `file`): a
    picture (PNG, JPEG, WebP, BMP, GIF, JPEG 2000) or .npy, and by its suffix NIfTI, TIFF, DICOM, a slide or a video."""
    kind: str
    """What the card's `media` calls it."""
    modality: str = ""
    unit: Unit | None = None
    """What the values are; by default `display` for pictures, and what the file says or `raw` for other kinds."""
    each: str = ""
    """Column that lists several files, as a list of JSON does: each of them is a medium, and `{column}` in `file` is
    one of them."""
    many: bool = False
    """The rows of a sample may name several files, such as the views of a study: each is a medium, in the order of the
    rows."""


class Config(Rows):
    kind: Literal["table"]
    file: Files
    """The table, under the root; or, where each split has a table, split -> table. A pattern such as `parts/*.json` is
    all tables that match."""
    format: Format | None = None
    """By the file's suffix when absent."""
    media: tuple[TableMedium, ...] = ()
    mask: TableMask | None = None
    """A file that says what each pixel of the first medium shows."""
    objects: RowObjects | None = None
    """Boxes of the first medium, one a row, or in a file of each sample."""

    @model_validator(mode="after")
    def _has_a_key(self) -> Config:
        if not self.key and not self.media:
            raise ValueError("expected `key` (which column names a sample) where there are no `media`")
        return self


def read(config: Config, root: Path | None) -> Iterator[RawSample | Deferred | BadSample | LeftOut]:
    """Samples in the order in which their first rows stand. Raises DataError for a table that is not what the card
    says."""
    assert root is not None, "a table has a root"
    samples, others = _group(config, root)
    yield from others
    if config.objects:
        every = list(_list_surveyed(config.objects, root, samples))
        survey = survey_boxes(config.objects, every, root / by_split(config.file)[0][1], _SizeOfMedium(config, root))
        if doubt := survey.find_doubt():
            yield LeftOut(doubt, survey.boxes)
    for key, rows in samples.items():
        where = say_place(rows, config.format)
        if any(map(finds_tiles, config.media)):
            yield Deferred(key, partial(_with_tiles, config, root, key, rows, where), where)
            continue
        try:
            raw, unasked = _read_sample(config, root, key, rows, where)
            left_out = Counter[str]()
            if config.objects:
                asked, left_out = _ask_about_objects(config.objects, [row for _, _, row in rows], root, key)
                raw = replace(raw, sample=replace(raw.sample, questions=(*raw.sample.questions, *asked)))
        except DataError as reason:
            yield BadSample(key, str(reason), where)
            continue
        yield from (LeftOut(why, n) for why, n in left_out.items())
        yield from (LeftOut(f"no text or no answer for the question {template}", n) for template, n in unasked.items())
        yield raw


def _ask_about_objects(
    config: RowObjects, rows: list[Row], root: Path, key: str
) -> tuple[list[Question], Counter[str]]:
    listed = list_object_rows(config, rows, root)
    if listed is None:
        return [], Counter(["sample without a file of its objects: nothing is asked about them"])
    objects = sort_by_class(objects_of(config, listed), (0, 0), config.classes)
    return list(questions(config, objects.boxes, key, (), objects.unclear)), objects.left_out


def _list_surveyed(config: RowObjects, root: Path, samples: Mapping[str, list[Numbered]]) -> Iterator[Row]:
    """The objects that tell how boxes are written: all rows, or those of the first files, as each has to be opened."""
    for rows in islice(samples.values(), FILES_SURVEYED) if config.file else samples.values():
        with suppress(DataError):  # told of the sample that it belongs to
            yield from list_object_rows(config, [row for _, _, row in rows], root) or ()


@dataclass
class _SizeOfMedium:
    """(height, width) of the picture of a row, by its header; zeros if unknown."""

    config: Config
    root: Path
    known: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __call__(self, row: Row) -> tuple[int, int]:
        name = fill(self.config.media[0].file, row) if self.config.media else ""
        if name not in self.known:
            self.known[name] = peek_size(file_in(self.root, name)) if name else (0, 0)
        return self.known[name]


def _with_tiles(config: Config, root: Path, key: str, rows: list[Numbered], where: str) -> RawSample:
    return _read_sample(config, root, key, rows, where)[0]


def _read_sample(
    config: Config, root: Path, key: str, rows: list[Numbered], where: str
) -> tuple[RawSample, Counter[str]]:
    """As make_sample(), with its media and their mask."""
    media, files = _media(config, root, rows)
    asked = []
    if config.mask and (path := find_common(config.mask.file, rows, "the file of the mask")):
        files[MEMBER] = find_loader(file_in(root, path), config.mask, root)
        asked.append(ask_for_labels(config.mask, key))
    raw, unasked = make_sample(config, key, rows, media, files, where)
    return replace(raw, sample=replace(raw.sample, questions=(*raw.sample.questions, *asked))), unasked


def list_content(config: Config) -> Content:
    mask = {config.mask.template: Offer("mask", config.mask.names)} if config.mask else {}
    offers = list_offers(config.questions)
    return Content(
        tasks=list_tasks_of(config.questions) | list_object_tasks(config.objects) | name_asked(mask=config.mask),
        media=frozenset(medium.kind for medium in config.media),
        has_reports=bool(config.report),
        answered=None if offers is None else {**offers, **mask, **list_object_offers(config.objects)},
        splits=list_splits_of(config.split, config.file),
        has_steps=any(asked.steps for asked in config.questions),
    )


def count(config: Config, root: Path | None) -> int:
    assert root is not None, "a table has a root"
    samples, others = _group(config, root)
    return len(samples) + sum(isinstance(x, BadSample) for x in others)


def _media(config: Config, root: Path, rows: list[Numbered]) -> tuple[tuple[Medium, ...], dict[str, Any]]:
    """Raises DataError for files that are not there."""
    media: list[Medium] = []
    files: dict[str, Any] = {}
    for medium in config.media:
        if medium.many or medium.each:
            paths = list(dict.fromkeys(path for _, _, row in rows for path in _list_paths(medium, row)))
        else:
            paths = [path for path in [find_common(medium.file, rows, "the file of a medium")] if path]
        for file in [file for path in paths for file in media_of(file_in(root, path), medium, medium.unit)]:
            member = str(len(media))
            media.append(
                Medium(
                    medium.kind,
                    member,
                    (),
                    unit=medium.unit or "display",
                    modality=find_common(medium.modality, rows, "modality"),
                )
            )
            files[member] = file
    return tuple(media), files


def _list_paths(medium: TableMedium, row: Row) -> list[str]:
    """The files of a row. A cell with a list has its parts separated by commas, see cell_text()."""
    rows = [{**row, medium.each: name} for name in row[medium.each].split(", ")] if medium.each else [row]
    return [path for each in rows if (path := fill(medium.file, each))]


def _group(config: Config, root: Path) -> tuple[dict[str, list[Numbered]], list[BadSample | LeftOut]]:
    key = config.key or config.media[0].file
    wanted = list_columns(config) | {
        column for medium in config.media for text in (medium.file, medium.modality) for column in columns_in(text)
    }
    wanted |= {medium.each for medium in config.media if medium.each}
    wanted |= set(columns_in(config.mask.file)) if config.mask else set()
    if config.objects:
        wanted |= config.objects.columns
    wanted.discard(SPLIT[1:-1])  # every row has it
    columns = Columns(config, root, wanted)
    return group_rows(config, key, _rows(config, root, columns), columns, config.format)


def _rows(config: Config, root: Path, columns: Columns) -> Iterator[tuple[str, int, Row | str]]:
    """Raises DataError for a table that cannot be read and for a column of the card that no row has."""
    seen = set(columns.seen)
    for split, name in find_files(root, config.file):
        for number, record in records(root / name, config.format or format_of(name)):
            if isinstance(record, dict):
                seen.update(column for column in record if column is not None)
            yield name, number, read_row(record, columns, config, split)
    check_columns(columns, seen, root / by_split(config.file)[0][1])
