"""Data sets of the `datasets` library: parquet files, or the arrow files of save_to_disk, with the images inside.

Only needs pyarrow. The card describes it like a `table`; rows with the same images are one sample. Images are read
twice, so that only the text of a data set has to fit into memory.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from medvlm.archive import arrow_files
from medvlm.archive.box_form import BoxSurvey
from medvlm.archive.objects import AsksAboutObjects, list_object_offers, list_object_tasks, questions, sort_by_class
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
from medvlm.archive.tables.columns import Columns, Row, columns_in, file_in
from medvlm.archive.tables.questions import list_offers, list_tasks_of
from medvlm.archive.tables.records import cell_text
from medvlm.archive.tables.split_files import Files, by_split
from medvlm.core.config import Config as Base
from medvlm.core.content import Content
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError, did_you_mean
from medvlm.core.sample import Box, Medium

_IMAGES = "{digest of the images}"
_OBJECTS = "objects of the row"
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
"""Names of folders that a message may show."""


class HfMedium(Base):
    column: str
    """Column of images: {bytes, path} as `datasets` stores them, plain bytes, or a list of either (each is a
    medium)."""
    kind: str
    """What the card's `media` calls it."""
    modality: str = ""
    unit: Literal["display", "HU", "raw"] = "display"


class HfObjects(AsksAboutObjects):
    places: str
    """Column with the list of boxes of a row."""
    named: str
    """Column of their class: one for the whole row, or a list with one for each box."""
    form: Literal["xyxy", "xywh"] = "xyxy"
    """Two corners, or the upper left corner, width and height; in pixels."""


class Config(Rows):
    kind: Literal["hf_dataset"]
    file: Files
    """Under the root: a parquet or arrow file, a folder of them (as save_to_disk makes it), or a pattern such as
    data/train-*.parquet; or, where each split has its own, split -> one of these."""
    media: tuple[HfMedium, ...] = ()
    objects: HfObjects | None = None
    """Objects on the first medium."""

    @model_validator(mode="after")
    def _has_a_key(self) -> Config:
        if not self.media and (not self.key or self.objects):
            raise ValueError(
                "expected `key` (which column names a sample), and no `objects`, where there are no `media`"
            )
        return self


def read(config: Config, root: Path | None) -> Iterator[RawSample | BadSample | LeftOut]:
    """Samples in the order of their first rows. Raises DataError for a data set that does not match the card."""
    assert root is not None, "a data set has a root"
    columns = Columns(
        config, root, list_columns(config) | {c for medium in config.media for c in columns_in(medium.modality)}
    )
    samples, others = group_rows(config, config.key or _IMAGES, _rows(config, root, columns), columns)
    yield from others
    if config.objects:
        survey = BoxSurvey(config.objects.form)
        for _, _, row in (row for rows in samples.values() for row in rows):
            for _, (x1, y1, x2, y2) in json.loads(row[_OBJECTS]):
                survey.add((x1, y1, x2, y2))
        survey.check(root)
    first = {rows[0][:2]: (key, rows) for key, rows in samples.items()}
    for _, name, file in _files(config, root):
        for number, record in arrow_files.rows(file, [medium.column for medium in config.media]):
            if (name, number) in first:
                yield from _sample(config, root, *first[name, number], record)


def list_content(config: Config) -> Content:
    offers = list_offers(config.questions)
    return Content(
        tasks=list_tasks_of(config.questions) | list_object_tasks(config.objects),
        media=frozenset(medium.kind for medium in config.media),
        has_reports=bool(config.report),
        answered=None if offers is None else {**offers, **list_object_offers(config.objects)},
        splits=list_splits_of(config.split, config.file),
        has_steps=any(asked.steps for asked in config.questions),
    )


def count(config: Config, root: Path | None) -> int:
    """The number of rows: the number of samples is known only after reading all images."""
    assert root is not None, "a data set has a root"
    return sum(arrow_files.num_rows(file) for _, _, file in _files(config, root))


def _sample(
    config: Config, root: Path, key: str, rows: list[Numbered], record: dict[str, Any]
) -> Iterator[RawSample | BadSample | LeftOut]:
    where = say_place(rows)
    try:
        find_common(_IMAGES, rows, "their images")
        left_out: Counter[str] = Counter()
        media: list[Medium] = []
        files: dict[str, bytes | Path] = {}
        for each in config.media:
            modality = find_common(each.modality, rows, "modality")
            for image in _as_list(record[each.column]):
                files[str(len(media))] = _image(image, root)
                media.append(Medium(each.kind, str(len(media)), (), unit=each.unit, modality=modality))
        raw, unasked = make_sample(config, key, rows, tuple(media), files, where)
        if config.objects:
            found = [each for _, _, row in rows for each in json.loads(row[_OBJECTS])]
            objects = sort_by_class(found, (0, 0), config.objects.classes)
            left_out = objects.left_out
            asked = (*raw.sample.questions, *questions(config.objects, objects.boxes, key, (), objects.unclear))
            raw = replace(raw, sample=replace(raw.sample, questions=asked))
    except DataError as reason:
        yield BadSample(key, str(reason), where)
        return
    yield from (LeftOut(why, n) for why, n in left_out.items())
    yield from (LeftOut(f"no text or no answer for the question {template}", n) for template, n in unasked.items())
    yield raw


def _rows(config: Config, root: Path, columns: Columns) -> Iterator[tuple[str, int, Row | str]]:
    images = [medium.column for medium in config.media]
    objects = {config.objects.places, config.objects.named} if config.objects else set()
    seen = set(columns.seen)
    for split, name, file in _files(config, root):
        found, classes = arrow_files.schema(file)
        if missing := [name for name in (*images, *sorted(objects)) if name not in found]:
            raise DataError(
                f"{file}: no column {missing[0]!r}{did_you_mean(missing[0], sorted(found))} ({len(found)} others)"
            )
        seen |= found
        own = {column if column in found else column.partition(".")[0] for column in columns.own}
        for number, record in arrow_files.rows(file, sorted((own | set(images) | objects) & found)):
            for column in classes.keys() & record.keys():
                record[column] = _class_name(record[column], classes[column])
            yield name, number, _row(config, root, record, columns, split)
    check_columns(columns, seen, root)


def _row(config: Config, root: Path, record: dict[str, Any], columns: Columns, split: str) -> Row | str:
    """The row with the digest of its images and its objects, or what is wrong with it."""
    row = read_row(record, columns, config, split)
    if isinstance(row, str):
        return row
    try:
        objects = _objects(config.objects, record) if config.objects else []
    except DataError as reason:
        return str(reason)
    return {
        **row,
        _IMAGES[1:-1]: _digest([record[medium.column] for medium in config.media], root),
        _OBJECTS: json.dumps(objects),
    }


def _objects(config: HfObjects, record: dict[str, Any]) -> list[tuple[str, Box]]:
    boxes, names = record[config.places], record[config.named]
    if boxes is None:
        return []
    names = names if isinstance(names, list) else [names] * len(boxes)
    if not isinstance(boxes, list) or len(names) != len(boxes):
        raise DataError(f"{config.places} and {config.named} are not lists of one length")
    found = []
    for name, box in zip(names, boxes, strict=True):
        if (
            not isinstance(box, list)
            or len(box) != 4
            or not all(isinstance(x, int | float) and math.isfinite(x) for x in box)
        ):
            raise DataError(f"{config.places} holds a box that is not made of four numbers")
        x, y, to_x, to_y = map(float, box)
        found.append(
            (cell_text(name) or "", (x, y, to_x, to_y) if config.form == "xyxy" else (x, y, x + to_x, y + to_y))
        )
    return found


def _class_name(value: Any, names: list[str]) -> Any:
    """None for -1, which `datasets` writes for a missing label."""
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _digest(values: list[Any], root: Path) -> str:
    """A digest of all images of a row; "" if there are none, or one of them cannot be read."""
    try:
        images = [_image(image, root) for value in values for image in _as_list(value)]
    except DataError:
        return ""
    total = hashlib.blake2b(digest_size=16)
    for image in images:
        total.update(hashlib.blake2b(image if isinstance(image, bytes) else image.read_bytes()).digest())
    return total.hexdigest() if images else ""


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _image(value: Any, root: Path) -> bytes | Path:
    """Raises DataError if there is neither an image nor an existing file."""
    if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
        return file_in(root, value["path"])
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise DataError("a column of images holds none; expected {bytes, path} or bytes")
    return data


def _files(config: Config, root: Path) -> list[tuple[str, str, Path]]:
    """(split, name in messages, file). Raises DataError if there are none."""
    found = []
    for split, name in by_split(config.file):
        if not (files := _files_of(root, name)):
            raise DataError(
                f"{root / name}: no .parquet or .arrow files; reader.file of the card is relative to the root {root}"
            )
        found += [(split, f"file {number} of {name}", file) for number, file in enumerate(files, 1)]
    return found


def _files_of(root: Path, name: str) -> list[Path]:
    folder = root / name
    if (folder / "dataset_dict.json").is_file():
        folders = [path.name for path in folder.iterdir() if path.is_dir()]
        splits = sorted(set(folders) & _SPLITS)
        others = f" and {len(folders) - len(splits)} others" if len(folders) > len(splits) else ""
        raise DataError(
            f"{folder}: holds the splits {', '.join(splits)}{others}; name them in reader.file, e.g. {{train:"
            f" {name}/{splits[0] if splits else 'train'}}}"
        )
    if (state := folder / "state.json").is_file():
        try:  # the folder may also hold cached files of other versions
            return [
                file_in(root, f"{name}/{each['filename']}") for each in json.loads(state.read_text())["_data_files"]
            ]
        except (ValueError, LookupError, TypeError, RecursionError) as reason:
            raise DataError(f"{state}: does not list the files of a data set ({type(reason).__name__})") from None
    paths = folder.iterdir() if folder.is_dir() else root.glob(name)
    return sorted(path for path in paths if path.suffix in (".parquet", ".arrow"))
