"""What tools that look at the first image share: its pixels, and boxes in a call."""

from __future__ import annotations

import numpy as np

from medvlm.core.errors import DataError
from medvlm.core.sample import Box, Medium
from medvlm.core.tool_config import ToolConfig
from medvlm.io.images import decode
from medvlm.tasks._notations import read_boxes
from medvlm.tools._contract import Scene

SLOT = "{boxes}"
"""Stands for boxes in the answer of a truth, see tasks/boxes."""


def get_first(scene: Scene) -> tuple[Medium, np.ndarray]:
    """The first medium of the sample, with its pixels as stored. Raises DataError if there is none."""
    if not scene.first:
        raise DataError("there is no image to look at")
    medium = scene.sample.media[0]
    stored = scene.files[medium.member]
    return medium, decode(stored, medium.member) if isinstance(stored, bytes) else stored


def get_film(scene: Scene) -> tuple[Medium, np.ndarray]:
    """The same for an image [H, W] or [H, W, 3]; a volume is refused too."""
    medium, pixels = get_first(scene)
    if len(medium.size) != 2:
        raise DataError("there is a volume, and no image")
    return medium, pixels


def read_stored(config: ToolConfig, asked: str, scene: Scene) -> list[Box]:
    """The boxes in a call, in stored pixels and within the image. Raises DataError for none, and for others."""
    canvas = scene.find_canvas()
    if canvas is None:
        raise DataError("the image is not shown as it is stored")
    found = read_boxes(asked, scene.boxes.extent(canvas))
    if found is None or not found.boxes or len(found.boxes) != found.written:
        width, height = scene.boxes.extent(canvas)
        example = scene.boxes.write([(0.25 * width, 0.25 * height, 0.5 * width, 0.5 * height)], "")
        raise DataError(f"expected boxes, as in {config.write(example)}")
    height_px, width_px = scene.sample.media[0].size
    stored = []
    for box in found.boxes:
        x1, y1, x2, y2 = canvas.to_stored(scene.boxes.to_canvas(box, canvas))
        inside = max(x1, 0.0), max(y1, 0.0), min(x2, float(width_px)), min(y2, float(height_px))
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise DataError("the box lies outside of the image")
        stored.append(inside)
    return stored


def read_one(config: ToolConfig, asked: str, scene: Scene) -> Box:
    """The same for a tool that takes one box."""
    boxes = read_stored(config, asked, scene)
    if len(boxes) > 1:
        raise DataError(f"expected one box, and there are {len(boxes)}")
    return boxes[0]


def name_member(medium: Medium, what: str, *numbers: int) -> str:
    """A member for what a tool makes of a medium: the same for the same call."""
    return f"{medium.member.partition('.')[0]}{what}{'x'.join(map(str, numbers))}.npy"
