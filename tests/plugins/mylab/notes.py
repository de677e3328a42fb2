"""A hook that keeps the losses of each stage in a file in the run folder, as of the last checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LOSSES: dict[str, list[float]] = {}


def on_step(record: dict[str, Any]) -> None:
    LOSSES.setdefault(record["stage"], []).append(record["loss"])


def on_checkpoint(folder: Path) -> None:
    (folder.parents[1] / "losses.json").write_text(json.dumps({"checkpoint": folder.name, "losses": LOSSES}))
