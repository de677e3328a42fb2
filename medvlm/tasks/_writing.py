"""Boxes as text: written by the codec that a model was taught, read in any of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from medvlm.core.config import component, kinds
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Box
from medvlm.tasks import _brackets


@dataclass(frozen=True)
class Writing:
    """How boxes are written: a codec (a file of tasks/codecs) and, where it has one, its scale."""

    codec: str = "thousandths"
    scale: int = 1000

    def place(self, canvas: Canvas, box: Box) -> Box | None:
        """A stored box in the codec's units; None where less than half of it lies on the canvas."""
        placed: Box | None = self._codec.place(canvas, box, self.scale)
        return placed

    def place_all(self, canvas: Canvas, boxes: Sequence[Box]) -> tuple[Box, ...]:
        return tuple(placed for box in boxes if (placed := self.place(canvas, box)) is not None)

    def write(self, boxes: Sequence[Box], label: str) -> str:
        """What it writes, `parse` reads."""
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


def parse(text: str, repair: bool = False) -> list[Box] | None:
    """The boxes in the text, in its order and in the units it is written in; [] where it says that there are none, None
    where it cannot be read.

    Read: what the codecs write, and groups of four numbers in square brackets or two corners in parentheses with
    whatever JSON, tags, fences or words around them. A box without an area or with x2 < x1 or y2 < y1 is dropped, or
    with `repair` its corners are put in order."""
    reader = next((read for mark, read in _readers() if mark in text), _brackets.parse)
    return reader(text, repair)


def is_written(text: str, label: str) -> bool:
    """Whether the text is exactly what some codec writes for the boxes in it, blanks aside."""
    found = parse(text)
    if found is None:
        return False
    plain = _without_blanks(text)
    return plain == _without_blanks(_brackets.write(found)) or any(
        plain == _without_blanks(Writing(codec).write(found, label)) for codec in kinds("tasks.codecs")
    )


@cache
def _readers() -> list[tuple[str, Callable[[str, bool], list[Box] | None]]]:
    """Of the codecs that need a reader of their own: what tells their texts from others, and the reader."""
    codecs = (component("tasks.codecs", kind) for kind in kinds("tasks.codecs"))
    return [(codec.MARK, codec.parse) for codec in codecs if hasattr(codec, "parse")]


def _without_blanks(text: str) -> str:
    return "".join(text.split())
