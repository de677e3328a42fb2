"""Boxes and points as text, written by the codec that a model was taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medvlm.core.config import component, kinds
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Box
from medvlm.tasks import _brackets
from medvlm.tasks._notations import read_boxes

Point = tuple[float, float]
"""x, y."""


@dataclass(frozen=True)
class Writing:
    """How boxes and points are written: a codec (a file of tasks/codecs) and, where it has one, its scale."""

    codec: str = "thousandths"
    scale: int = 1000

    def place(self, canvas: Canvas, box: Box) -> Box | None:
        """A stored box in the codec's units; None where less than half of it lies on the canvas."""
        placed: Box | None = self._codec.place(canvas, box, self.scale)
        return placed

    def place_all(self, canvas: Canvas, boxes: Sequence[Box]) -> tuple[Box, ...]:
        return tuple(placed for box in boxes if (placed := self.place(canvas, box)) is not None)

    def place_point(self, canvas: Canvas, point: Point) -> Point | None:
        """A stored point in the codec's units, as it is written; None if it does not lie on the canvas."""
        x, y, _, _ = canvas.to_canvas((*point, *point))
        (wide, high), (height, width) = self.extent(canvas), canvas.size[-2:]
        if not (0 <= x <= width and 0 <= y <= height):
            return None
        return self._codec.snap(x / width * wide), self._codec.snap(y / height * high)

    def write_points(self, points: Sequence[Point], label: str) -> str:
        """What it writes, `_points.read_points` reads."""
        text: str = self._codec.write_points(points, label)
        return text

    def write(self, boxes: Sequence[Box], label: str) -> str:
        """What it writes, `_notations.read_boxes` reads."""
        text: str = self._codec.write(boxes, label)
        return text

    def extent(self, canvas: Canvas) -> tuple[float, float]:
        """What (width, height) of the canvas are in the codec's units."""
        found: tuple[float, float] = self._codec.extent(canvas, self.scale)
        return found

    def to_canvas(self, box: Box, canvas: Canvas) -> Box:
        """A box in the codec's units as pixels of the canvas."""
        (wide, high), (height, width) = self.extent(canvas), canvas.size[-2:]
        return box[0] * width / wide, box[1] * height / high, box[2] * width / wide, box[3] * height / high

    @property
    def _codec(self) -> Any:
        return component("tasks.codecs", self.codec)


def is_written(text: str, label: str, codec: str = "", extent: Sequence[float] = ()) -> bool:
    """Whether the text is exactly what the codec writes for the boxes in it, blanks aside, each of them once and within
    the image. codec: "" for any of them."""
    found = read_boxes(text, extent, label)
    if found is None or len(set(found.boxes)) != found.written:
        return False
    if extent and not all(
        x1 >= 0 and x2 <= extent[0] and y1 >= 0 and y2 <= extent[1] for x1, y1, x2, y2 in found.boxes
    ):
        return False
    ways = [Writing(each).write(found.boxes, label) for each in ([codec] if codec else kinds("tasks.codecs"))]
    if not codec:
        ways.append(_brackets.write(found.boxes))
    return "".join(text.split()) in ["".join(way.split()) for way in ways]
