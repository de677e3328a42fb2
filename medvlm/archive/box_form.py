"""Whether boxes are what a reader takes them for: pixels and not shares, corners and not widths, within their image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from medvlm.core.errors import DataError
from medvlm.core.sample import Box

SLACK_PX = 2.0
"""How far a box may reach beyond its image by rounding."""
FEWEST = 3
"""Swapped corners in fewer boxes are mistakes of single boxes."""
SCALES, LARGER, MANY = (100, 1000), 1.5, 20
"""Models write boxes in hundredths or thousandths of the image. Where MANY boxes of images that are LARGER times as
wide and high never pass 100 or 1000, but come close to it, they are probably no pixels."""


def find_fault(box: Box, size: tuple[int, int]) -> str:
    """What is wrong with a box of two corners, "" if it can be used. size: (height, width); zeros if unknown."""
    x1, y1, x2, y2 = box
    height, width = size
    if x2 < x1 or y2 < y1:
        return "box whose right or lower edge comes before the left or upper one"
    if x1 == x2 or y1 == y2:
        return "box without area"
    if all(size) and (x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0):
        return "box beside its image"
    return "box of less than a pixel" if x2 - x1 < 1 and y2 - y1 < 1 else ""


def reaches_beyond(box: Box, size: tuple[int, int]) -> bool:
    """Whether it reaches further beyond its image than by rounding."""
    x1, y1, x2, y2 = box
    return all(size) and (min(x1, y1) < -SLACK_PX or x2 > size[1] + SLACK_PX or y2 > size[0] + SLACK_PX)


@dataclass
class BoxSurvey:
    """Of all boxes of an archive. form: how they are written, as corners or as corner, width and height.

    beyond: boxes that reach beyond their image. fitting: those that would lie within it if they were of the other form.
    small: scale -> boxes in images LARGER than it. reach: the furthest edge of all boxes."""

    form: Literal["xyxy", "xywh"]
    boxes: int = 0
    shares: int = 0
    fractions: int = 0
    swapped: int = 0
    beyond: int = 0
    fitting: int = 0
    small: Counter[int] = field(default_factory=Counter)
    reach: float = 0.0

    def add(self, box: Box, size: tuple[int, int] = (0, 0)) -> None:
        """box: two corners, whatever the form."""
        x1, y1, x2, y2 = box
        written = box if self.form == "xyxy" else (x1, y1, x2 - x1, y2 - y1)
        self.boxes += 1
        self.shares += all(0 <= side <= 1 for side in written)
        self.fractions += any(side != int(side) for side in written)
        self.swapped += x2 < x1 or y2 < y1
        self.beyond += reaches_beyond(box, size)
        other = (x1, y1, x1 + x2, y1 + y2) if self.form == "xyxy" else written
        self.fitting += all(size) and not find_fault(other, size) and not reaches_beyond(other, size)
        self.small.update(scale for scale in SCALES if min(size) >= LARGER * scale)
        self.reach = max(self.reach, x2, y2)

    def find_scale(self) -> int:
        """100 or 1000 if the boxes may be shares of it, whatever the size of the images; else 0."""
        is_many = self.boxes >= MANY
        return next((scale for scale in SCALES if is_many and 0.9 * scale <= self.reach <= scale), 0)

    def find_doubt(self) -> str:
        """Why the boxes are probably no pixels; "" where they are, or where the sizes of the images are not known."""
        scale = self.find_scale()
        if not scale or self.small[scale] < self.boxes:
            return ""
        return (
            f"box that is taken as it is, although none reaches beyond {scale} and all images are at least"
            f" {LARGER * scale:.0f} pixels wide and high: if it was scaled to 0 to {scale}, multiply it by the image's"
            f" width or height and divide it by {scale}"
        )

    def check(self, where: object) -> None:
        """Raises DataError for boxes that are not of the form."""
        if self.fractions and self.shares == self.boxes:
            raise DataError(
                f"{where}: all {self.boxes} boxes lie within 0 and 1: these are shares of the image (as YOLO writes"
                " them), and pixels are expected; multiply them by the image's width and height"
            )
        if self.form == "xyxy" and self.swapped >= max(FEWEST, 0.05 * self.boxes):
            raise DataError(
                f"{where}: {self.swapped} of {self.boxes} boxes end before they begin: these look like [x, y, width,"
                " height], and two corners are expected; rewrite them (of hf_dataset: set form: xywh)"
            )
        if self.form == "xywh" and self.fitting == self.boxes and self.beyond > 0.1 * self.boxes:
            raise DataError(
                f"{where}: {self.beyond} of {self.boxes} boxes reach beyond their image, and all would lie within it as"
                " two corners: these look like [x1, y1, x2, y2], and [x, y, width, height] is expected; rewrite them"
            )
