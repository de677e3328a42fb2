"""Where the metrics of a run are sent, besides metrics.jsonl."""

from __future__ import annotations

from typing import Literal

from medvlm.core.config import Config


class WandbConfig(Config):
    project: str
    mode: Literal["offline", "online"] = "offline"
    """`offline` (the default) sends nothing; `online` needs WANDB_API_KEY in the environment."""
    entity: str = ""


class TrackConfig(Config):
    wandb: WandbConfig | None = None
    tensorboard: bool = False
