"""Shows an image again, with boxes drawn on it: `mark [x1, y1, x2, y2]`, with boxes as the model writes them; another
image, or slices of a volume, with `mark image 2 [..]`, `mark slice 14 [..]`.

Source: ViTAR (JLINEkai/ViTAR at 1448fb2), which draws lines of 3 pixels, red in colours and white in grey, on the
original image. Its call is JSON; `form` and `says` of a recipe write it and the sentence that follows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medvlm.core.errors import DataError
from medvlm.core.sample import Truth
from medvlm.core.tool_config import ToolConfig
from medvlm.tools._contract import Scene, Shown
from medvlm.tools._pictures import call_with_boxes, look, name_member, read_stored


class Config(ToolConfig):
    kind: Literal["mark"]
    line_px: int = Field(3, gt=0)
    """Width of the lines, in stored pixels, within the box."""


def use(config: Config, asked: str, scene: Scene) -> Shown:
    """Raises DataError for anything but boxes on an image or on slices."""
    view = look(asked, scene)
    medium, pixels, axes = view.medium, view.pixels, len(view.medium.size)
    boxes = [tuple(map(round, box)) for box in read_stored(config, view, scene)]
    marked = pixels.copy()
    colour: Any = np.array([255, 0, 0], pixels.dtype) if pixels.ndim > axes else _brightest(pixels)
    for x1, y1, x2, y2 in boxes:
        inside = np.zeros(medium.size[-2:], bool)
        inside[y1:y2, x1:x2] = True
        inside[y1 + config.line_px : y2 - config.line_px, x1 + config.line_px : x2 - config.line_px] = False
        marked[(slice(None),) * (axes - 2) + (inside,)] = colour
    member = name_member(medium, f"mark{view.name}", *(side for box in boxes for side in box))
    return Shown(media=(replace(medium, member=member),), files={member: marked})


def write_call(config: Config, truth: Any) -> Truth:
    """truth: of task `boxes`, with a box at least."""
    if not getattr(truth, "boxes", ()):
        raise DataError("an expert marks a box")
    return call_with_boxes(config, truth)


def _brightest(pixels: np.ndarray) -> Any:
    return 255 if pixels.dtype == np.uint8 else pixels.max()
