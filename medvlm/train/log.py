"""Logs metrics to metrics.jsonl and to trackers, and shows the progress of training."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.core.live import Live
from medvlm.train.hooks import NO_HOOKS, Hooks
from medvlm.train.trackers import Tracker


class Log:
    """Appends a JSON line for each record. Enabled only on the first rank."""

    def __init__(self, path: Path, enabled: bool, trackers: Sequence[Tracker], hooks: Hooks = NO_HOOKS):
        self.path, self.enabled, self.trackers, self.hooks = path, enabled, trackers, hooks
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
        self.hooks.see_record(record)

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
