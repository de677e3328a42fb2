"""What `medvlm train` says at the end: where everything is, and what to do next."""

from __future__ import annotations

import json
import shlex
from typing import Any

from medvlm.core.run import RunFolder
from medvlm.recipe.load import LoadedRecipe


def describe_end(loaded: LoadedRecipe, run: RunFolder) -> list[str]:
    """Lines for each stage with the checkpoint that was kept and its validation, and the next commands."""
    lines = [f"run       {run.root}"]
    losses = _read_validations(run)
    left = []
    for stage in loaded.recipe.stages:
        record = run.stage(stage.name) / "stage.json"
        if not record.is_file():
            left.append(stage.name)
            continue
        take = json.loads(record.read_text(encoding="utf-8"))["take"]
        checked = _describe_validation(losses.get(stage.name, {}), take)
        lines.append(f"stage     {stage.name}: {run.stage(stage.name) / take}{checked}")
    if run.quarantine.is_file():
        lines.append(f"skipped   samples that could not be read: {run.quarantine}")
    if left:
        return [*lines, f"next      {', '.join(left)}: not trained yet; run medvlm train without --stage"]
    where, on = shlex.quote(str(run.root)), "" if loaded.recipe.evaluate.on else " --on SOURCE:test"
    lines += [f"next      medvlm evaluate {where}{on}", f"          medvlm report {where}"]
    return [*lines, f"          medvlm export {where} --to DIR"]


def _describe_validation(losses: dict[int, float], take: str) -> str:
    """The validation loss of the checkpoint that was kept, and the best one if it is another."""
    if not losses:
        return ""
    kept = losses.get(int(take.rpartition("-")[2]))
    best = min(losses, key=lambda step: losses[step])
    words = [] if kept is None else [f"validation {kept:.4f}"]
    if kept is None or losses[best] < kept:
        words.append(f"best {losses[best]:.4f} at step {best}")
    return f", {', '.join(words)}"


def _read_validations(run: RunFolder) -> dict[str, dict[int, float]]:
    """Stage -> step -> validation loss, where it is a finite number."""
    found: dict[str, dict[int, float]] = {}
    lines = run.metrics.read_text(encoding="utf-8").splitlines() if run.metrics.is_file() else []
    for line in lines:
        record: dict[str, Any] = json.loads(line)
        loss = record.get("validation", {}).get("loss")
        if isinstance(loss, int | float):  # others are written as text
            found.setdefault(record["stage"], {})[record["step"]] = float(loss)
    return found
