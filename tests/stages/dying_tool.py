"""A zoom in whose n-th call of a process the process is killed without a word, once."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Literal

from medvlm.core.config import component
from medvlm.core.tool_config import ToolConfig
from medvlm.tools._contract import Scene, Shown

calls = 0


class Config(ToolConfig):
    kind: Literal["tests.stages.dying_tool"]
    dies_at: int
    mark: str
    """A file that is written before the end."""


def use(config: Config, asked: str, scene: Scene) -> Shown:
    global calls
    calls += 1
    if calls == config.dies_at and not Path(config.mark).exists():
        Path(config.mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    zoom = component("tools", "zoom")
    shown: Shown = zoom.use(zoom.Config(kind="zoom"), asked, scene)
    return shown
