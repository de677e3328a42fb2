"""Objects listed in a table, one per row: a class and the corners of a box."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from medvlm.archive.box_form import BoxSurvey
from medvlm.archive.objects import AsksAboutObjects
from medvlm.archive.tables.columns import Row
from medvlm.core.errors import DataError
from medvlm.core.sample import Box


class RowObjects(AsksAboutObjects):
    """The rows of a sample are its objects; a row without any corner is not an object."""

    named: str
    """Column of the class."""
    corners: tuple[str, str, str, str]
    """Columns of left, top, right and bottom, in pixels of the first medium."""


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
