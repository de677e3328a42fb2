"""What tools that look at an image share: which one is asked about, its pixels, and boxes in a call.

A call may begin with the image and the slices that it is about, as the model counts them, from 1: `image 2 [..]`,
`slice 14 [..]`, `image 2 slices 10-14 [..]`. Without a number it is about the first image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Box, Medium, Truth, make_truth
from medvlm.core.tool_config import ToolConfig
from medvlm.io.images import decode
from medvlm.tasks._notations import read_boxes
from medvlm.tools._contract import Scene

SLOT = "{boxes}"
"""Stands for boxes in the answer of a truth, see tasks/boxes."""
_ABOUT = re.compile(
    r"\s*(?:image\s*#?([0-9]{1,4})\s*[:,]?\s*)?(?:slices?\s*#?([0-9]{1,5})(?:\s*(?:-|to)\s*([0-9]{1,5}))?\s*[:,]?\s*)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class View:
    """What a call is about. medium, pixels: as stored, of a volume only the slices that are named (all by default).
    canvas: how the model perceives the medium, None if not as it is stored. asked: the rest of the call. name: of the
    slices, for members. first: the stored slice that comes first."""

    medium: Medium
    pixels: np.ndarray
    canvas: Canvas | None
    asked: str
    name: str = ""
    first: int = 0

    @property
    def is_film(self) -> bool:
        return len(self.medium.size) == 2

    def cut(self, x1: int, y1: int, x2: int, y2: int, member: str) -> tuple[Medium, np.ndarray]:
        """A part of the image, or of each of the slices."""
        pixels = self.pixels[y1:y2, x1:x2] if self.is_film else self.pixels[:, y1:y2, x1:x2]
        affine: Any = self.medium.affine and tuple(
            (*row[:3], row[3] + row[1] * y1 + row[2] * x1) for row in self.medium.affine
        )
        size = pixels.shape[: len(self.medium.size)]
        return replace(self.medium, member=member, size=size, affine=affine), pixels


def look(asked: str, scene: Scene, whole: bool = False) -> View:
    """whole: whether a volume may be looked at without naming slices. Raises DataError for an image or a slice that
    there is not."""
    match = _ABOUT.match(asked)
    image, first, last = (None if text is None else int(text) for text in match.groups()) if match else (None,) * 3
    number = 1 if image is None else image
    if not scene.first:
        raise DataError("there is no image to look at")
    if not 1 <= number <= scene.first:
        raise DataError(f"there is no image {image}, but 1 to {scene.first}")
    medium, seen = scene.sample.media[number - 1], scene.find_canvas()
    stored = scene.files[medium.member]
    pixels = decode(stored, medium.member) if isinstance(stored, bytes) else stored
    canvas = seen.of_medium(number - 1) if seen else None
    view = View(medium, pixels, canvas, asked[match.end() :] if match else asked)
    if view.is_film:
        if first is not None:
            raise DataError("there is an image, and no slices")
        return view
    if first is None:
        if not whole:
            raise DataError("there is a volume; say which slice, as in slice 3")
        return view
    return _choose_slices(view, first, first if last is None else last)


def _choose_slices(view: View, first: int, last: int) -> View:
    if view.canvas is None:
        raise DataError("the slices are not shown as they are stored")
    start, end = view.canvas.find_slice(first - 1), view.canvas.find_slice(last - 1)
    if start is None or end is None or first > last:
        raise DataError(f"expected slices from 1 to {view.canvas.num_slices}")
    affine: Any = view.medium.affine and tuple((*row[:3], row[3] + row[0] * start) for row in view.medium.affine)
    pixels = view.pixels[start : end + 1]
    medium = replace(view.medium, size=(end + 1 - start, *view.medium.size[1:]), affine=affine)
    return replace(view, medium=medium, pixels=pixels, name=f"slices{start}x{end}", first=start)


def get_film(scene: Scene) -> tuple[Medium, np.ndarray]:
    """The first medium of the sample, an image [H, W] or [H, W, 3], with its pixels. Raises DataError for none, and for
    a volume."""
    view = look("", scene, whole=True)
    if not view.is_film:
        raise DataError("there is a volume, and no image")
    return view.medium, view.pixels


def read_stored(config: ToolConfig, view: View, scene: Scene) -> list[Box]:
    """The boxes in a call, in stored pixels and within the image. Raises DataError for none, and for others."""
    canvas = view.canvas
    if canvas is None:
        raise DataError("the image is not shown as it is stored")
    found = read_boxes(view.asked, scene.boxes.extent(canvas))
    if found is None or not found.boxes or len(found.boxes) != found.written:
        width, height = scene.boxes.extent(canvas)
        example = scene.boxes.write([(0.25 * width, 0.25 * height, 0.5 * width, 0.5 * height)], "")
        about = "" if view.is_film else "slice 1 "
        raise DataError(f"expected boxes, as in {config.write(f'{about}{example}')}")
    height_px, width_px = view.medium.size[-2:]
    stored = []
    for box in found.boxes:
        x1, y1, x2, y2 = canvas.to_stored(scene.boxes.to_canvas(box, canvas))
        inside = max(x1, 0.0), max(y1, 0.0), min(x2, float(width_px)), min(y2, float(height_px))
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise DataError("the box lies outside of the image")
        stored.append(inside)
    return stored


def read_one(config: ToolConfig, view: View, scene: Scene) -> Box:
    """The same for a tool that takes one box."""
    boxes = read_stored(config, view, scene)
    if len(boxes) > 1:
        raise DataError(f"expected one box, and there are {len(boxes)}")
    return boxes[0]


def call_with_boxes(config: ToolConfig, truth: Any) -> Truth:
    """How an expert calls a tool with the boxes of a truth, and the images or slices that they lie on."""
    where = {name: getattr(truth, name) for name in ("numbers", "of") if hasattr(truth, name)}
    return make_truth(truth.task, config.write(SLOT), boxes=truth.boxes, label=truth.label, **where)


def name_member(medium: Medium, what: str, *numbers: int) -> str:
    """A member for what a tool makes of a medium: the same for the same call."""
    return f"{medium.member.partition('.')[0]}{what}{'x'.join(map(str, numbers))}.npy"
