"""Logs metrics to metrics.jsonl, and optionally to wandb and TensorBoard, and shows the progress of training."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from medvlm.core.live import Live
from medvlm.core.track_config import TrackConfig, WandbConfig


class Tracker(Protocol):
    """The part of lightning.fabric.loggers.Logger that is used here."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...

    def save(self) -> None: ...


class Log:
    """Appends a JSON line for each record. Enabled only on the first rank."""

    def __init__(self, path: Path, enabled: bool, trackers: Sequence[Tracker]):
        self.path, self.enabled, self.trackers = path, enabled, trackers
        if enabled:
            path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, record: dict[str, Any]) -> None:
        if not self.enabled:
            return
        # JSON has no NaN, so values that are not finite are written as text.
        with self.path.open("a") as file:
            file.write(json.dumps(_replace_non_finite(record)) + "\n")
        validation = {f"validation/{k}": v for k, v in record.get("validation", {}).items()}
        sources = {
            f"source/{name}/{k}": v for name, account in record.get("sources", {}).items() for k, v in account.items()
        }
        flat = {
            k: v
            for k, v in {**record, **record.get("terms", {}), **validation, **sources}.items()
            if isinstance(v, int | float)
        }
        metrics = {f"{record['stage']}/{name}": value for name, value in flat.items()}
        for tracker in self.trackers:
            tracker.log_metrics(metrics, record["step"])
            tracker.save()

    def forget_after(self, stage: str, step: int) -> None:
        """Removes the records that an interrupted run wrote after the checkpoint from which it resumes."""
        if not self.enabled or not self.path.exists():
            return
        kept = []
        for line in self.path.read_bytes().splitlines():
            try:
                record = json.loads(line)
                if record["stage"] != stage or record["step"] <= step:
                    kept.append(line)
            except (ValueError, TypeError, KeyError, RecursionError):
                continue  # the incomplete last line of a process that was killed, or damage
        part = self.path.with_suffix(".part")
        part.write_bytes(b"".join(line + b"\n" for line in kept))
        part.replace(self.path)


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _replace_non_finite(v) for k, v in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def make_trackers(track: TrackConfig, recipe: dict[str, Any], name: str, folder: Path) -> list[Tracker]:
    """The trackers that the recipe names; only these are imported. recipe: resolved. folder: of the run."""
    made: list[Tracker] = []
    if track.wandb:
        made.append(Wandb(track.wandb, recipe, name, folder))
    if track.tensorboard:
        from lightning.fabric.loggers import TensorBoardLogger

        made.append(TensorBoardLogger(folder, name="tensorboard", version=""))
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

    def save(self) -> None:
        """Does nothing: wandb saves by itself."""


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


class ProgressLine:
    """The progress of a stage, with the loss of its last validation."""

    def __init__(self, stage: str, number: int, stages: int, steps: int, start: int, enabled: bool):
        self.title, self.steps, self.start, self.enabled = f"stage {number}/{stages} {stage}", steps, start, enabled
        self.began, self.live, self.validation = time.monotonic(), Live(), ""

    def note_validation(self, loss: float, is_best: bool) -> None:
        self.validation = f"  validation {loss:.4f}{' (best)' if is_best else ''}"

    def show(self, step: int, loss: float, samples_per_s: float, sources: str = "", last: bool = False) -> None:
        if not self.enabled:
            return
        left = (time.monotonic() - self.began) / max(1, step - self.start) * (self.steps - step)
        self.live(
            f"{self.title}  step {step}/{self.steps}  loss {loss:.4f}{self.validation}  {samples_per_s:,.0f} samples/s"
            f"  ETA {int(left // 60)}:{int(left % 60):02d}{'  ' if sources else ''}{sources}"
        )
        if last:
            self.live.end()
