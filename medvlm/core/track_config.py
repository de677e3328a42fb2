"""Where the metrics of a run are sent, besides metrics.jsonl."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medvlm.core.config import Config


class WandbConfig(Config):
    project: str
    mode: Literal["offline", "online"] = "offline"
    """`offline` (the default) sends nothing; `online` needs WANDB_API_KEY in the environment."""
    entity: str = ""


class TrackConfig(Config):
    wandb: WandbConfig | None = None
    tensorboard: bool = False
    samples: int = Field(0, ge=0, exclude_if=lambda samples: not samples)
    """So many images with their questions, and questions with drawn answers, are sent to the trackers after training
    and evaluation. These are data of patients: leave it at 0 if they may not leave the machine."""
