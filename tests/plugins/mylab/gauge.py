"""A tool that says how bright the image is: `gauge`."""

from __future__ import annotations

from typing import Literal

from medvlm.core.errors import DataError
from medvlm.core.tool_config import ToolConfig
from medvlm.io.images import decode
from medvlm.tools._contract import Scene, Shown


class Config(ToolConfig):
    kind: Literal["mylab.gauge"]
    digits: int = 1


def use(config: Config, asked: str, scene: Scene) -> Shown:
    if not scene.first:
        raise DataError("there is no image")
    stored = scene.files[scene.sample.media[0].member]
    pixels = decode(stored, "image") if isinstance(stored, bytes) else stored
    return Shown(f"mean {pixels.mean():.{config.digits}f}")
