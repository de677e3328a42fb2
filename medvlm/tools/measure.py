"""Measures a box in millimetres: `measure [x1, y1, x2, y2]`, with the box as the model writes boxes; on another image
or on slices of a volume `measure image 2 [..]`, `measure slices 10-14 [..]`.

Millimetres follow from the spacing of the stored pixels, so they do not depend on how the image is shown."""

from __future__ import annotations

import math
from typing import Any, Literal

from medvlm.core.errors import DataError
from medvlm.core.sample import Truth
from medvlm.core.tool_config import ToolConfig
from medvlm.tools._contract import Scene, Shown
from medvlm.tools._pictures import call_with_boxes, look, read_one


class Config(ToolConfig):
    kind: Literal["measure"]


def use(config: Config, asked: str, scene: Scene) -> Shown:
    """Raises DataError for anything but one box on an image, or slices, whose spacing is known."""
    view = look(asked, scene)
    if view.medium.spacing_mm is None:
        raise DataError("the size of a pixel is not known")
    x1, y1, x2, y2 = read_one(config, view, scene)
    *slice_mm, row_mm, column_mm = view.medium.spacing_mm
    width, height = (x2 - x1) * column_mm, (y2 - y1) * row_mm
    sides = [f"width {width:.1f} mm", f"height {height:.1f} mm", f"diagonal {math.hypot(width, height):.1f} mm"]
    if len(view.pixels) > 1 and slice_mm:
        sides.append(f"depth {view.medium.size[0] * slice_mm[0]:.1f} mm")
    return Shown(", ".join(sides))


def write_call(config: Config, truth: Any) -> Truth:
    """truth: of task `boxes`, with one box."""
    if len(getattr(truth, "boxes", ())) != 1:
        raise DataError("an expert measures one box")
    return call_with_boxes(config, truth)
