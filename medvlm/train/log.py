"""Metrics to metrics.jsonl always, to wandb and TensorBoard when asked; progress for the person who waits."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from medvlm.core.config import Config


class WandbConfig(Config):
    project: str
    mode: str = "offline"
    """`offline` (the default) sends nothing; `online` needs WANDB_API_KEY in the environment."""
    entity: str = ""


class TrackConfig(Config):
    wandb: WandbConfig | None = None
    tensorboard: bool = False


class Log:
    """Appends one line a logged step. Only the first rank has one that writes."""

    def __init__(self, path: Path, enabled: bool, trackers: list[Any]):
        self.path, self.enabled, self.trackers = path, enabled, trackers
        if enabled:
            path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, record: dict[str, Any]) -> None:
        if not self.enabled:
            return
        # JSON has no NaN: a value that is not finite is written as text, so that every reader can read the line.
        with self.path.open("a") as file:
            file.write(json.dumps(_finite(record)) + "\n")
        validation = {f"validation/{k}": v for k, v in record.get("validation", {}).items()}
        sources = {
            f"source/{name}/{k}": v for name, account in record.get("sources", {}).items() for k, v in account.items()
        }
        flat = {
            k: v
            for k, v in {**record, **record.get("terms", {}), **validation, **sources}.items()
            if isinstance(v, int | float)
        }
        for tracker in self.trackers:
            tracker.write(record["stage"], record["step"], flat)

    def forget_after(self, stage: str, step: int) -> None:
        """Drops what a run that was cut off logged after the checkpoint it goes on from."""
        if not self.enabled or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # the torn last line of a process that was killed
            if record["stage"] != stage or record["step"] <= step:
                kept.append(line)
        part = self.path.with_suffix(".part")
        part.write_text("".join(line + "\n" for line in kept))
        part.replace(self.path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Wandb:
    def __init__(self, config: WandbConfig, recipe: dict[str, Any], name: str, folder: Path):
        import wandb

        self.run = wandb.init(
            project=config.project,
            entity=config.entity or None,
            mode=config.mode,  # type: ignore[arg-type]
            name=name,
            dir=folder,
            config=redacted(recipe),
        )

    def write(self, stage: str, step: int, values: dict[str, float]) -> None:
        self.run.log({f"{stage}/{k}": v for k, v in values.items() if k != "step"} | {f"{stage}/step": step})


class TensorBoard:
    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(folder / "tensorboard")

    def write(self, stage: str, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(f"{stage}/{key}", value, step)
        self.writer.flush()


SECRET_KEYS = ("token", "key", "secret", "password", "credential")


def redacted(value: Any, key: str = "") -> Any:
    """The value with secrets and absolute paths taken out: what may leave the machine."""
    if isinstance(value, dict):
        return {k: redacted(v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(v, key) for v in value]
    if isinstance(value, str):
        words = key.lower().replace("-", "_").split("_")
        secret = (
            any(word in SECRET_KEYS for word in words)
            or value.startswith(("hf_", "sk-"))
            or (len(value) == 40 and set(value) <= set("0123456789abcdef"))
        )
        return "[redacted]" if secret else "[path]" if value.startswith(("/", "~")) else value
    return value


class Progress:
    """One line on a terminal, one line every few seconds elsewhere."""

    def __init__(self, stage: str, number: int, stages: int, steps: int, start: int, enabled: bool):
        self.title, self.steps, self.start, self.enabled = f"stage {number}/{stages} {stage}", steps, start, enabled
        self.began = self.shown = time.monotonic()
        self.terminal = sys.stdout.isatty()

    def show(self, step: int, loss: float, samples_per_s: float, sources: str = "", last: bool = False) -> None:
        now = time.monotonic()
        if not self.enabled or not (last or now - self.shown >= (0.2 if self.terminal else 5)):
            return
        self.shown = now
        left = (now - self.began) / max(1, step - self.start) * (self.steps - step)
        line = (
            f"{self.title}  step {step}/{self.steps}  loss {loss:.4f}  {samples_per_s:,.0f} samples/s  ETA"
            f" {int(left // 60)}:{int(left % 60):02d}{'  ' if sources else ''}{sources}"
        )
        print(f"\r{line}\033[K" if self.terminal else line, end="\n" if last or not self.terminal else "", flush=True)
