"""Objects listed in a table, one per row, or in a file of each sample: a class and the corners of a box."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import Field, model_validator

from medvlm.archive.box_form import BoxSurvey
from medvlm.archive.objects import AsksAboutObjects
from medvlm.archive.tables.columns import Row, columns_in, file_in, fill
from medvlm.archive.tables.records import cell_text, find_value, format_of, records, without_key
from medvlm.core.errors import DataError
from medvlm.core.sample import Box


class RowObjects(AsksAboutObjects):
    """The rows of a sample are its objects; a row without any corner is not an object."""

    named: str
    """Column of the class."""
    corners: tuple[str, str, str, str]
    """Columns of left, top, right and bottom, in pixels of the first medium."""
    file: str = Field("", exclude_if=lambda file: not file)
    """A file of JSON with the objects of a sample, in place of rows, e.g. `graphs/{image_id}.json#objects`, where
    `objects` is the key of their list. `named` and `corners` are keys of each of them. A sample without the file is
    asked nothing about objects."""

    @model_validator(mode="after")
    def _names_json(self) -> RowObjects:
        try:
            is_json = not self.file or (format_of(self.file) == "json" and bool(columns_in(self.file)))
        except DataError:
            is_json = False
        if not is_json:
            raise ValueError("file is no JSON of each sample; expected e.g. graphs/{image_id}.json#objects")
        return self

    @property
    def keys(self) -> set[str]:
        return {self.named, *self.corners}

    @property
    def columns(self) -> set[str]:
        """Those of the table that are read."""
        return set(columns_in(self.file)) if self.file else self.keys


def list_object_rows(config: RowObjects, rows: Sequence[Row], root: Path) -> list[Row] | None:
    """The objects of a sample with the columns of its first row; None without their file. rows: of the sample.

    Raises DataError for a file that holds no list of objects."""
    if not config.file:
        return list(rows)
    name = fill(config.file, rows[0])
    bare = without_key(Path(name))[0]
    if not name or not (root / bare).is_file():
        return None
    file_in(root, str(bare))  # refuses what leads out of the root
    try:
        found = [record for _, record in records(root / name, "json")]
    except DataError:  # its text holds the path, which may name a patient
        raise DataError(
            "the file of its objects is no JSON, or has no list under the key that the card names"
        ) from None
    if not all(isinstance(record, dict) for record in found):
        raise DataError("the file of its objects lists something other than records")
    return [{**rows[0], **{key: cell_text(find_value(each, key)) or "" for key in config.keys}} for each in found]


def objects_of(config: RowObjects, rows: Iterable[Row]) -> Iterator[tuple[str, Box]]:
    """Class and box of each row with an object. Raises DataError for a box that is not four numbers."""
    for row in rows:
        values = [row[column] for column in config.corners]
        if not any(values):
            continue
        try:
            box = tuple(float(value) for value in values)
        except ValueError:
            box = ()
        if len(box) != 4 or not all(map(math.isfinite, box)):
            raise DataError(f"its {', '.join(config.corners)} are not four numbers")
        yield row[config.named], box


def survey_boxes(
    config: RowObjects, rows: Sequence[Row], where: object, find_size: Callable[[Row], tuple[int, int]]
) -> BoxSurvey:
    """find_size: (height, width) of a row's image, zeros if unknown. Called only for boxes that may have been scaled.

    Raises DataError for boxes of an archive that are shares of the image, or no corners."""
    survey = _add_boxes(config, rows, lambda row: (0, 0))
    survey.check(where)
    return _add_boxes(config, rows, find_size) if survey.find_scale() else survey


def _add_boxes(config: RowObjects, rows: Iterable[Row], find_size: Callable[[Row], tuple[int, int]]) -> BoxSurvey:
    survey = BoxSurvey("xyxy")
    for row in rows:
        with suppress(DataError):  # told of the sample that it belongs to
            for _, box in objects_of(config, [row]):
                survey.add(box, find_size(row))
    return survey
