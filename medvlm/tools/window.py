"""Shows an image or volume again, with another window of its intensities: `window lung`, or `window -160 240`; of
another image, or of some slices alone, `window image 2 lung`, `window slices 10-14 lung`.

Source of the linear map: DICOM PS3.3 C.11.2.1.3.2 (LINEAR_EXACT)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from medvlm.core.errors import DataError
from medvlm.core.tool_config import ToolConfig
from medvlm.tools._contract import Scene, Shown
from medvlm.tools._pictures import look, name_member

_TWO = re.compile(r"\[?(-?[0-9]{1,9}(?:\.[0-9]{1,9})?)[ ,;]+(-?[0-9]{1,9}(?:\.[0-9]{1,9})?)\]?")


class Config(ToolConfig):
    kind: Literal["window"]
    windows: Mapping[str, tuple[float, float]] = {}
    """Name -> (low, high) stored intensities that become black and white, e.g. {lung: [-1350, 150]}."""
    onto: tuple[float, float] | None = None
    """The intensities that the model itself shows black and white (`preprocess.window` of its encoder). Then the result
    keeps its unit, and the asked window is mapped onto this one. By default the result has 8 bits."""


def use(config: Config, asked: str, scene: Scene) -> Shown:
    """Raises DataError for what is no window, and for colours."""
    view = look(asked, scene, whole=True)
    medium, pixels = view.medium, view.pixels
    if pixels.ndim != len(medium.size):
        raise DataError("an image in colours has no window")
    low, high = _read(config, view.asked)
    share = np.clip((pixels.astype(np.float32) - low) / (high - low), 0, 1)
    if config.onto is None:
        shown, described = (share * 255 + 0.5).astype(np.uint8), replace(medium, unit="display")
    else:
        black, white = config.onto
        mapped = black + share * (white - black)
        shown, described = mapped.round().astype(pixels.dtype) if pixels.dtype.kind in "iu" else mapped, medium
    member = name_member(medium, f"window{view.name}", *(round(100 * (side + 1e6)) for side in (low, high)))
    return Shown(media=(replace(described, member=member),), files={member: shown})


def _read(config: Config, asked: str) -> tuple[float, float]:
    if (name := asked.strip().lower()) in config.windows:
        return config.windows[name]
    found = _TWO.fullmatch(asked.strip())
    low, high = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
    if low >= high:
        known = f", or one of {', '.join(config.windows)}" if config.windows else ""
        raise DataError(f"expected a low and a high intensity, as in {config.write('-160 240')}{known}")
    return low, high
