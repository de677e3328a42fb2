"""Measures a box on the first image in millimetres: `measure [x1, y1, x2, y2]`, with the box as the model writes boxes.

Millimetres follow from the spacing of the stored pixels, so they do not depend on how the image is shown."""

from __future__ import annotations

import math
from typing import Any, Literal

from medvlm.core.errors import DataError
from medvlm.core.sample import Truth, make_truth
from medvlm.core.tool_config import ToolConfig
from medvlm.tools._contract import Scene, Shown
from medvlm.tools._pictures import SLOT, get_film, read_one


class Config(ToolConfig):
    kind: Literal["measure"]


def use(config: Config, asked: str, scene: Scene) -> Shown:
    """Raises DataError for anything but one box on an image whose spacing is known."""
    medium, _ = get_film(scene)
    if medium.spacing_mm is None:
        raise DataError("the size of a pixel is not known")
    x1, y1, x2, y2 = read_one(config, asked, scene)
    row_mm, column_mm = medium.spacing_mm
    width, height = (x2 - x1) * column_mm, (y2 - y1) * row_mm
    return Shown(f"width {width:.1f} mm, height {height:.1f} mm, diagonal {math.hypot(width, height):.1f} mm")


def write_call(config: Config, truth: Any) -> Truth:
    """truth: of task `boxes`, with one box."""
    if len(getattr(truth, "boxes", ())) != 1:
        raise DataError("an expert measures one box")
    return make_truth(truth.task, config.write(SLOT), boxes=truth.boxes, label=truth.label)
