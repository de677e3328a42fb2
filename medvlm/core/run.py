"""The files of a run: runs/NAME/{recipe.resolved.yaml, lineage.json, metrics.jsonl, status.json, ranks/,
STAGE/step-N/, evaluate/, report.html}."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from medvlm.core.document import read_yaml
from medvlm.core.errors import CheckpointError
from medvlm.core.stored import read_object


@dataclass(frozen=True)
class RunFolder:
    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.resolved.yaml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine.jsonl"

    @property
    def lineage(self) -> Path:
        return self.root / "lineage.json"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def stalled(self) -> Path:
        """Names the stalled process, if one stalled. R.json in the same folder says what rank R is doing."""
        return self.root / "ranks" / "stalled.txt"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    @property
    def results(self) -> Path:
        return self.root / "evaluate" / "results.json"

    @property
    def answers(self) -> Path:
        """One JSON line per evaluated question, for the gallery of the report."""
        return self.root / "evaluate" / "answers.jsonl"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def export(self) -> Path:
        return self.root / "export"

    def stage(self, name: str) -> Path:
        return self.root / name

    def is_finished(self, stage: str) -> bool:
        return (self.stage(stage) / "stage.json").exists()

    def list_finished(self) -> list[str]:
        """The finished stages in the order of the recipe. The times of files say nothing: copies change them.

        Raises RecipeError if the recipe of the run cannot be read."""
        stages = read_yaml(self.recipe).data.get("stages")
        names = [stage.get("name") for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
        return [name for name in names if isinstance(name, str) and self.is_finished(name)]


class TrainedRecord(TypedDict):
    parameters: int
    moved: bool


# Not a class, because `from` is a word of Python.
StoredStage = TypedDict(
    "StoredStage",
    {
        "take": str,
        "identity": str,
        "checkpoint": str,
        "parameters": dict[str, int],
        "from": dict[str, str],
        "teachers": NotRequired[dict[str, str]],
        "kind": NotRequired[str],
        "step": NotRequired[int],
        "seconds": NotRequired[float],
        "trains": NotRequired[dict[str, TrainedRecord]],
        "frozen": NotRequired[dict[str, str]],
    },
)
"""Of stage.json, what is read again."""


def read_record(stage_folder: Path) -> dict[str, Any]:
    """The stage.json of a finished stage. Raises CheckpointError if it is damaged, or names what is no checkpoint."""
    remedy = f"copy it again from where the run was trained, or train the stage again with --from {stage_folder.name}"
    record: dict[str, Any] = read_object(stage_folder / "stage.json", StoredStage, remedy)
    if not re.fullmatch(r"step-\d+", record["take"]):
        raise CheckpointError(f"{stage_folder.name}/stage.json is damaged (take is no checkpoint); {remedy}")
    return record


def hash_files(folder: Path) -> dict[str, str]:
    """File within the folder -> a hash of its bytes."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): _hash_file(p) for p in files}


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def find_changed(folder: Path, stated: Mapping[str, str]) -> list[str]:
    """The files that are no longer what `hash_files` stated. Files that were added since do not count."""
    now = hash_files(folder)
    return [name for name, digest in stated.items() if now.get(name) != digest]


MERGED = " + "
"""Between the origins of a module that were merged, each followed by ` x SHARE`."""


def split_origin(text: str) -> list[str]:
    """The origins of a module in lineage: one, or those that were merged."""
    return [part.partition(" x ")[0] for part in text.split(MERGED)]


def find_own_checkpoint(origin: str) -> str:
    """STAGE/step-N of an origin in lineage.json (STAGE/step-N@HASH); "" if it is not from the same run."""
    name = origin.partition("@")[0]
    return name if re.fullmatch(r"[^:/]+/step-\d+", name) else ""


@cache
def hash_code() -> str:
    """A hash of the source files of medvlm, committed or not. Checkpoints store it."""
    package, found = Path(__file__).parent.parent, hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        found.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    return found.hexdigest()[:12]


def write_json(path: Path, value: Any) -> None:
    """Writes atomically, so that a reader never sees an incomplete file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    part.replace(path)
