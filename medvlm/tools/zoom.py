"""Shows a part of an image in full resolution: `zoom [x1, y1, x2, y2]`, with the box as the model writes boxes; of
another image or of slices of a volume `zoom image 2 [..]`, `zoom slices 10-14 [..]`.

The part is cut from the stored pixels and then perceived like any image of its kind, so what was lost when the whole
image was made smaller can be seen. (An encoder with `spacing_mm` sees all images at one scale, and gains nothing.)
Source: DeepEyes (arXiv 2505.14362), whose tool `image_zoom_in_tool` takes a box too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from medvlm.core.errors import DataError
from medvlm.core.sample import Box, Truth
from medvlm.core.tool_config import ToolConfig
from medvlm.tools._contract import Scene, Shown
from medvlm.tools._pictures import call_with_boxes, look, name_member, read_one


class Config(ToolConfig):
    kind: Literal["zoom"]
    least_px: int = Field(32, gt=0)
    """Least height and width of what is shown, in stored pixels. A smaller box is widened around its centre."""


def use(config: Config, asked: str, scene: Scene) -> Shown:
    """Raises DataError for anything but one box on an image or on slices."""
    view = look(asked, scene)
    x1, y1, x2, y2 = widen(read_one(config, view, scene), view.medium.size[-2:], config.least_px)
    member = name_member(view.medium, f"zoom{view.name}", x1, y1, x2, y2)
    medium, cut = view.cut(x1, y1, x2, y2, member)
    return Shown(media=(medium,), files={member: cut})


def write_call(config: Config, truth: Any) -> Truth:
    """truth: of task `boxes`, with one box."""
    if len(getattr(truth, "boxes", ())) != 1:
        raise DataError("an expert zooms to one box")
    return call_with_boxes(config, truth)


def widen(box: Box, size: Sequence[int], least_px: int) -> tuple[int, int, int, int]:
    """The whole stored pixels that a box touches, at least `least_px` of them on each axis, within the image. size:
    (height, width)."""
    x1, x2 = _widen(box[0], box[2], size[1], least_px)
    y1, y2 = _widen(box[1], box[3], size[0], least_px)
    return x1, y1, x2, y2


def _widen(low: float, high: float, pixels: int, least: int) -> tuple[int, int]:
    length = min(pixels, max(round(high) - round(low), least))
    first = min(max(round((low + high - length) / 2), 0), pixels - length)
    return first, first + length
