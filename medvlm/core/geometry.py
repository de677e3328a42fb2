"""Maps between stored pixels and the canvas that the model perceives, one affine map per axis.

Coordinates are continuous: pixel i of an axis covers [i, i + 1), so a box over the whole of a 128 x 96
(width x height) image is (0, 0, 128, 96), and resizing multiplies. A map is built from the steps that the
pixels went through: `crop(size, 10, 0, (80, 96)).then(flip((80, 96))).then(resize((80, 96), (64, 64)))`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import floor

from medvlm.core.errors import DataError
from medvlm.core.sample import Box

WARNING = "warning: "
"""Begins those lines about what a model is shown that are warnings (preflight/scales.py)."""
KEPT_SHARE = 0.5
"""A box with less than this share of its area on the canvas is dropped, because it can hardly be seen."""


@dataclass(frozen=True)
class Canvas:
    """canvas = stored * scale + offset on each axis, after swapping the last two axes if `swapped`.

    size, scale, offset: the canvas' axes, (height, width) or (depth, height, width). scale is negative on a
    flipped axis. Boxes are (x1, y1, x2, y2) on the last two axes.

    slices: of a volume that is shown as pictures, the stored slices that they show, in order. further: the canvases of
    the other media of the sample, None for one that is not shown as stored.
    """

    size: tuple[int, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    swapped: bool = False
    slices: tuple[int, ...] = field(default=(), kw_only=True)
    further: tuple[Canvas | None, ...] = field(default=(), kw_only=True)

    def of_medium(self, number: int) -> Canvas | None:
        """The canvas of a medium of the sample, counted from 0. None if there is none."""
        return (self, *self.further)[number] if 0 <= number <= len(self.further) else None

    @property
    def num_slices(self) -> int:
        """Of a volume as it is seen; 0 for a picture."""
        return len(self.slices) or (self.size[0] if len(self.size) == 3 else 0)

    def see_slice(self, stored: int) -> int | None:
        """The number, from 0, of the seen slice that shows a stored one: the nearest, or the one that its middle lies
        in. None if it is outside."""
        if self.slices:
            return min(range(len(self.slices)), key=lambda number: abs(self.slices[number] - stored))
        seen = floor((stored + 0.5) * self.scale[0] + self.offset[0]) if self.num_slices else -1
        return seen if 0 <= seen < self.num_slices else None

    def find_slice(self, seen: int) -> int | None:
        """The stored slice that a seen one shows. None if there is no such number."""
        if not 0 <= seen < self.num_slices:
            return None
        return self.slices[seen] if self.slices else floor((seen + 0.5 - self.offset[0]) / self.scale[0])

    def then(self, after: Canvas) -> Canvas:
        """This map, followed by a map from this canvas to another."""
        scale, offset = _swap(self.scale, after.swapped), _swap(self.offset, after.swapped)
        return Canvas(
            after.size,
            tuple(a * s for a, s in zip(after.scale, scale, strict=True)),
            tuple(a * o + b for a, o, b in zip(after.scale, offset, after.offset, strict=True)),
            self.swapped != after.swapped,
            slices=self.slices,
            further=self.further,
        )

    def to_canvas(self, box: Box) -> Box:
        """Maps a stored box to the canvas, without clipping."""
        x1, y1, x2, y2 = box
        if self.swapped:
            x1, y1, x2, y2 = y1, x1, y2, x2
        (sy, sx), (oy, ox) = self.scale[-2:], self.offset[-2:]
        return _sort_corners(x1 * sx + ox, y1 * sy + oy, x2 * sx + ox, y2 * sy + oy)

    def to_stored(self, box: Box) -> Box:
        """The inverse of to_canvas."""
        (sy, sx), (oy, ox) = self.scale[-2:], self.offset[-2:]
        x1, y1, x2, y2 = _sort_corners((box[0] - ox) / sx, (box[1] - oy) / sy, (box[2] - ox) / sx, (box[3] - oy) / sy)
        return (y1, x1, y2, x2) if self.swapped else (x1, y1, x2, y2)

    def clip_box(self, box: Box) -> Box | None:
        """The part of a stored box that lies on the canvas, in canvas pixels; None if that is less than half of its
        area.

        Raises DataError for a box without an area.
        """
        x1, y1, x2, y2 = self.to_canvas(box)
        if not (x2 > x1 and y2 > y1 and box[2] > box[0] and box[3] > box[1]):
            raise DataError(
                f"box {tuple(box)} has no area: expected (x1, y1, x2, y2) with x1 < x2 and y1 < y2; correct it in the"
                " archive and pack again"
            )
        height, width = self.size[-2:]
        clipped = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        seen = max(clipped[2] - clipped[0], 0.0) * max(clipped[3] - clipped[1], 0.0)
        return clipped if seen >= KEPT_SHARE * (x2 - x1) * (y2 - y1) else None

    def quantize_box(self, box: Box, extent: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """A stored box as an answer writes it: integers from 0 to `extent` (x, y) at the far edges of the
        canvas, clipped to it.

        None if less than half of the box lies on the canvas. Never empty: a box thinner than one unit is
        widened to one, so that its overlap with an answer can be measured.
        """
        visible = self.clip_box(box)
        if visible is None:
            return None
        height, width = self.size[-2:]
        x1, x2 = _to_units(visible[0], visible[2], width, extent[0])
        y1, y2 = _to_units(visible[1], visible[3], height, extent[1])
        return x1, y1, x2, y2

    def convert_spacing_mm(self, stored_mm: tuple[float, ...]) -> tuple[float, ...]:
        """Converts millimetres per stored pixel to millimetres per canvas pixel, by axis of the canvas."""
        return tuple(mm / abs(s) for mm, s in zip(_swap(stored_mm, self.swapped), self.scale, strict=True))


def join_canvases(canvases: Sequence[Canvas | None]) -> Canvas | None:
    """That of the first medium, which knows those of the others. None if it has none."""
    first, *further = canvases or [None]
    return first if first is None or not further else replace(first, further=tuple(further))


def identity(size: tuple[int, ...]) -> Canvas:
    return Canvas(size, (1.0,) * len(size), (0.0,) * len(size))


def resize(size: tuple[int, ...], new: tuple[int, ...]) -> Canvas:
    return Canvas(new, tuple(n / s for n, s in zip(new, size, strict=True)), (0.0,) * len(size))


def crop(size: tuple[int, int], top: float, left: float, new: tuple[int, int]) -> Canvas:
    """The `new` pixels from (top, left) on; negative values lie outside, as after padding or a shift."""
    assert len(size) == 2, size
    return Canvas(new, (1.0, 1.0), (-top, -left))


def flip(size: tuple[int, int]) -> Canvas:
    """Left becomes right."""
    return Canvas(size, (1.0, -1.0), (0.0, float(size[1])))


def rot90(size: tuple[int, int], turns: int = 1) -> Canvas:
    """Quarter turns against the clock, as numpy.rot90: what was on the right is on top."""
    canvas = identity(size)
    for _ in range(turns % 4):
        height, width = canvas.size
        canvas = canvas.then(Canvas((width, height), (-1.0, 1.0), (float(width), 0.0), swapped=True))
    return canvas


def _swap(axes: tuple[float, ...], swapped: bool) -> tuple[float, ...]:
    return (*axes[:-2], axes[-1], axes[-2]) if swapped else axes


def _sort_corners(x1: float, y1: float, x2: float, y2: float) -> Box:
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _to_units(low: float, high: float, pixels: int, scale_max: int) -> tuple[int, int]:
    first, last = int(low / pixels * scale_max + 0.5), int(high / pixels * scale_max + 0.5)
    if first == last:
        first, last = (first, last + 1) if last < scale_max else (first - 1, last)
    return first, last
