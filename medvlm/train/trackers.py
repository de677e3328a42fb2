"""Trackers of experiments: wandb and TensorBoard. Only those that a recipe names are imported."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medvlm.core.document import to_yaml
from medvlm.core.track_config import TrackConfig, WandbConfig


@dataclass(frozen=True)
class Picture:
    """pixels: uint8 [H, W, 3]."""

    pixels: np.ndarray
    caption: str


class Tracker(Protocol):
    """Where curves, settings, tables and pictures of a run are sent. Settings are redacted; tables and pictures are
    sent as they are."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...

    def log_settings(self, name: str, value: Any) -> None: ...

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None: ...

    def log_pictures(self, name: str, pictures: Sequence[Picture]) -> None: ...

    def save(self) -> None: ...


def make_trackers(track: TrackConfig, recipe: dict[str, Any], name: str, folder: Path) -> list[Tracker]:
    """The trackers that the recipe names; only these are imported. recipe: resolved. folder: of the run."""
    made: list[Tracker] = []
    if track.wandb:
        made.append(Wandb(track.wandb, recipe, name, folder))
    if track.tensorboard:
        made.append(TensorBoard(recipe, folder))
    return made


class Wandb:
    """A wandb run for all attempts of a run folder.

    Fabric has no wandb logger. The one of lightning.pytorch sets WANDB_MODE for the whole process, and logs into any
    run that is already open.
    """

    def __init__(self, config: WandbConfig, recipe: dict[str, Any], name: str, folder: Path):
        import wandb

        # Offline, wandb cannot resume a run: two runs with one id would replace each other when synced.
        run_id = _load_wandb_id(folder)
        continued: dict[str, Any] = {"id": run_id, "resume": "allow"} if config.mode == "online" else {"group": run_id}
        self.run = wandb.init(
            project=config.project,
            entity=config.entity or None,
            mode=config.mode,
            name=name,
            dir=folder,
            config=redact(recipe),
            reinit="create_new",  # otherwise a second recipe in this process would log into the first run
            **continued,
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.run.log(dict(metrics))

    def log_settings(self, name: str, value: Any) -> None:
        self.run.config.update({name: redact(value)}, allow_val_change=True)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import wandb

        self.run.log(
            {name: wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)}
        )

    def log_pictures(self, name: str, pictures: Sequence[Picture]) -> None:
        import wandb

        self.run.log({name: [wandb.Image(each.pixels, caption=each.caption) for each in pictures]})

    def save(self) -> None:
        """Does nothing: wandb saves by itself."""


class TensorBoard:
    """Event files for all attempts of a run folder, in its folder `tensorboard`."""

    def __init__(self, recipe: dict[str, Any], folder: Path):
        from lightning.fabric.loggers import TensorBoardLogger

        self._logger: Any = TensorBoardLogger(folder, name="tensorboard", version="")
        self.log_settings("recipe", recipe)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._logger.log_metrics(metrics, step)

    def log_settings(self, name: str, value: Any) -> None:
        text = to_yaml(redact(value)) if isinstance(value, dict) else str(redact(value))
        self._logger.experiment.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()))

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join(f"| {' | '.join(map(_format_cell, line))} |" for line in lines)
        self._logger.experiment.add_text(name, text)

    def log_pictures(self, name: str, pictures: Sequence[Picture]) -> None:
        for number, each in enumerate(pictures):
            self._logger.experiment.add_image(f"{name}/{number}", each.pixels, dataformats="HWC")
            self._logger.experiment.add_text(f"{name}/{number}", each.caption.replace("\n", "  \n"))

    def save(self) -> None:
        self._logger.save()


def _format_cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def _load_wandb_id(folder: Path) -> str:
    path = folder / "wandb" / "id.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(4))
    return path.read_text()


SECRET_KEYS = ("token", "key", "secret", "password", "credential")


def redact(value: Any, key: str = "") -> Any:
    """Replaces secrets and absolute paths, so that the value may leave the machine."""
    if isinstance(value, dict):
        return {k: redact(v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact(v, key) for v in value]
    if isinstance(value, str):
        words = key.lower().replace("-", "_").split("_")
        secret = (
            any(word in SECRET_KEYS for word in words)
            or value.startswith(("hf_", "sk-"))
            or (len(value) == 40 and set(value) <= set("0123456789abcdef"))
        )
        return "[redacted]" if secret else "[path]" if value.startswith(("/", "~")) else value
    return value
