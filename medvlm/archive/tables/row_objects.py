"""Objects listed in a table, one per row: a class and the corners of a box."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

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
