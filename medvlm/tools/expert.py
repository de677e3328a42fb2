"""Asks a model with decoders, and shows what it finds in words and as an overlay: `expert`, or another form.

Sources: VILA-M3 (Project-MONAI/VLM-Radiology-Agent-Framework), whose experts are triggered as `<CXR()>` and answer with
`atelectasis: yes` or a coloured overlay; ChatCAD (arXiv 2302.07257), which puts probabilities into words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medvlm.core.errors import DataError
from medvlm.core.sample import Truth, make_truth
from medvlm.core.tool_config import ToolConfig
from medvlm.knowledge._verdict import AsksExpert
from medvlm.tools._contract import Scene, Shown
from medvlm.tools._pictures import get_film, name_member

COLOURS = {
    "yellow": (255, 220, 0),
    "blue": (0, 120, 255),
    "red": (255, 60, 60),
    "green": (0, 200, 90),
    "purple": (180, 80, 255),
}
EVERYTHING = "everything"


class Config(ToolConfig, AsksExpert):
    kind: Literal["expert"]
    opacity: float = Field(0.4, gt=0, le=1)
    """Of the colours over the image."""


def use(config: Config, asked: str, scene: Scene) -> Shown:
    """asked: nothing or `everything` for all classes, or names of some. Raises DataError for other names, and if there
    is no image."""
    medium, pixels = get_film(scene)
    scores, masks = scene.open_expert(config.run).look(_own(scene), scene.files)
    known = [*scores, *(name for name in masks if name not in scores)]
    wanted = known if asked.strip().lower() in ("", EVERYTHING) else _choose(asked, known)
    lines = list(config.verbalise({name: scores[name] for name in wanted if name in scores}))
    found = {name: masks[name] > config.threshold for name in wanted if name in masks}
    if not found:
        return Shown("\n".join(lines))
    overlay, legend = _colour(pixels, found, config.opacity)
    member = name_member(medium, "expert", *(known.index(name) for name in found))
    named = f"The colors mean {', '.join(f'{colour}: {name}' for colour, name in legend.items())}."
    return Shown("\n".join([named, *lines]), (replace(medium, member=member, unit="display"),), {member: overlay})


def write_call(config: Config, truth: Any) -> Truth:
    """Whatever is asked, everything is looked for."""
    return make_truth("open", config.write(""))


def fingerprint(config: Config) -> str:
    return config.hash_records()


def _own(scene: Scene) -> Any:
    """The sample without what tools have added."""
    return replace(scene.sample, media=scene.sample.media[: scene.first])


def _choose(asked: str, known: list[str]) -> list[str]:
    chosen = [name for name in known if name.lower() in asked.lower()]
    if not chosen:
        raise DataError(f"the expert knows {', '.join(known)}")
    return chosen


def _colour(pixels: np.ndarray, masks: Mapping[str, np.ndarray], opacity: float) -> tuple[np.ndarray, dict[str, str]]:
    """The image in 8-bit colours with each mask in a colour of its own, and colour -> name."""
    grey = pixels.astype(np.float32)
    if pixels.dtype != np.uint8:
        low, high = np.percentile(grey, (0.5, 99.5))
        grey = np.clip((grey - low) / max(high - low, 1e-6), 0, 1) * 255
    shown = np.stack([grey] * 3, -1) if grey.ndim == 2 else grey
    legend = {}
    for (colour, rgb), (name, mask) in zip(COLOURS.items(), masks.items(), strict=False):
        shown[mask] = (1 - opacity) * shown[mask] + opacity * np.array(rgb, np.float32)
        legend[colour] = name
    return (shown + 0.5).astype(np.uint8), legend
