"""Reads a run folder. A run that is unfinished, killed or old still gives a page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvlm.core.config import permit
from medvlm.core.document import read_yaml
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder

STATUS = {
    "failed": "The last attempt to train ended with {}; what was saved before it is shown.",
    "preempted": "The run was asked to stop and saved a checkpoint; start it again to resume.",
}
Point = tuple[float, float]
Record = dict[str, Any]


@dataclass
class StageLog:
    """Curves of one stage: name -> (step, value). A step that was logged twice (before a kill and after it) counts
    once, the later one."""

    train: dict[str, dict[float, float]] = field(default_factory=dict)
    validation: dict[str, dict[float, float]] = field(default_factory=dict)
    planned: int = 0
    step: int = 0
    seconds: float = 0.0

    def points(self, name: str) -> list[Point]:
        return sorted(self.train.get(name, {}).items())

    def validations(self, name: str) -> list[Point]:
        return sorted(self.validation.get(name, {}).items())


@dataclass
class StageRecord:
    """settings: from the recipe. done: from stage.json, which is written when the stage is finished. Any field may be
    empty."""

    settings: Record
    done: Record
    log: StageLog

    @property
    def steps(self) -> int:
        return max(self.log.step, self.done.get("step") or 0)

    @property
    def planned(self) -> int:
        return self.log.planned or self.settings.get("steps") or 0

    @property
    def seconds(self) -> float:
        return self.done.get("seconds") or self.log.seconds


@dataclass
class RunRecord:
    """Everything the page shows. stages: by name, in recipe order. notes: sentences about what was missing or
    damaged."""

    name: str
    recipe: Record
    lineage: Record
    stages: dict[str, StageRecord]
    results: list[Record]
    answers: list[Record]
    notes: list[str]

    @property
    def sources(self) -> dict[str, Record]:
        return self.lineage.get("sources") or {}

    @property
    def parameters(self) -> dict[str, int]:
        return (self.lineage.get("model") or {}).get("parameters") or {}


def in_order(splits: Iterable[str]) -> list[str]:
    """train, val, test, then folds and whatever else there is."""
    known = ("train", "val", "test")
    return sorted(splits, key=lambda s: (known.index(s) if s in known else len(known), len(s), s))


def read_run(run: RunFolder) -> RunRecord:
    notes: list[str] = []
    recipe = _recipe(run.recipe, notes)
    plugins = recipe.get("plugins")
    permit(plugins if isinstance(plugins, list) else ())  # whose tasks the answers may be of
    logs = _logs(run.metrics, notes)
    written = [s for s in recipe.get("stages") or [] if isinstance(s, dict)]
    settings = {str(s.get("name", f"stage {i + 1}")): s for i, s in enumerate(written)}
    names = [*settings, *(n for n in logs if n not in settings)]
    if not names:
        names = sorted(p.parent.name for p in run.root.glob("*/stage.json"))
    stages = {
        n: StageRecord(settings.get(n, {}), _json(run.stage(n) / "stage.json", {}, notes), logs.get(n, StageLog()))
        for n in names
    }
    notes += [
        f"Stage {n} is not finished: step {s.steps:,}{f' of {s.planned:,}' if s.planned else ''}."
        for n, s in stages.items()
        if s.log.train and not s.done
    ]
    untouched = [n for n, s in stages.items() if not s.done and not s.log.train]
    notes += [f"Not started: {', '.join(untouched)}."] if untouched else []
    status = _json(run.status, {}, notes)
    notes += [STATUS[s].format(status.get("reason") or "an error") for s in STATUS if status.get("status") == s]
    lineage = _json(
        run.lineage, {}, notes, "There is no lineage.json: data cards, licence and parameter counts are not shown."
    )
    results = _json(run.results, [], notes, "There is no evaluation yet: nothing here says how good the model is.")
    answers = _answers(run, notes)
    if skipped := _lines(run.quarantine, notes):
        notes.append(
            f"{len(skipped)} {'sample was' if len(skipped) == 1 else 'samples were'} skipped because they could not be"
            " read (quarantine.jsonl)."
        )
    for protocol in _json(run.results.with_name("protocol.json"), [], notes):
        if (protocol.get("shards") or {}).get("limit"):
            notes.append(
                f"{protocol.get('dataset')}:{protocol.get('split')} was evaluated on"
                f" {protocol['shards'].get('samples')} samples drawn by the seed, not on all."
            )
    if results and not answers:
        notes.append("The evaluation left no answers: there is no gallery.")
    return RunRecord(
        str(recipe.get("name") or run.root.resolve().name), recipe, lineage, stages, results, answers, notes
    )


def _answers(run: RunFolder, notes: list[str]) -> list[Record]:
    """The records of every protocol that asks questions, in the order of the protocols' names."""
    paths = sorted({run.answers, *run.answers.parent.glob("*.jsonl")})
    return [a for path in paths for a in _lines(path, notes) if isinstance(a, dict) and "question" in a]


def _recipe(path: Path, notes: list[str]) -> Record:
    if not path.is_file():
        notes.append(f"There is no {path.name}: the stages are shown in the order they were logged.")
        return {}
    try:
        return read_yaml(path, path.name).data
    except RecipeError as reason:
        notes.append(f"The recipe of this run cannot be read: {reason}.")
        return {}


def _json(path: Path, empty: Any, notes: list[str], missing: str = "") -> Any:
    """The file's content when it is of the same kind as `empty`. `missing` is what to say when there is no file."""
    if not path.is_file():
        if missing:
            notes.append(missing)
        return empty
    shown = f"{path.parent.name}/{path.name}"
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, UnicodeDecodeError):
        notes.append(f"{shown} is damaged and was left out.")
        return empty
    if not isinstance(value, type(empty)):
        notes.append(
            f"{shown} holds a {type(value).__name__} where a {type(empty).__name__} was expected; it was left out."
        )
        return empty
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else value


def _lines(path: Path, notes: list[str]) -> list[Any]:
    """Parses JSON lines. An incomplete last line is left out, with a note."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    out, bad = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            out.append(json.loads(line))
        except (ValueError, UnicodeDecodeError):
            bad.append(number)
    if bad and bad[-1] == len(lines):
        bad.pop()
        notes.append(
            f"The last line of {path.name} is cut off (the run is writing it, or was stopped); it was left out."
        )
    if bad:
        notes.append(
            f"{path.name}: {len(bad)} unreadable {'line' if len(bad) == 1 else 'lines'} left out (first: line"
            f" {bad[0]})."
        )
    return out


def _logs(path: Path, notes: list[str]) -> dict[str, StageLog]:
    if not path.is_file():
        notes.append("There is no metrics.jsonl: nothing was logged, there are no curves.")
        return {}
    logs: dict[str, StageLog] = {}
    for line in _lines(path, notes):
        if not isinstance(line, dict) or "stage" not in line or not isinstance(line.get("step"), int):
            continue
        log = logs.setdefault(str(line["stage"]), StageLog())
        step = line["step"]
        if isinstance(line.get("validation"), dict):
            for name, value in line["validation"].items():
                _put(log.validation, name, step, value)
            continue
        for name in ("loss", "lr", "grad_norm", "samples_per_s", "tokens_per_s"):
            _put(log.train, name, step, line.get(name))
        for name, value in (line.get("terms") or {}).items():
            _put(log.train, f"terms/{name}", step, value)
        sources = line.get("sources") or {}
        for name, account in sources.items() if len(sources) > 1 else ():
            for what in ("loss", "reward", "epochs"):
                _put(log.train, f"terms/{what} by source/{name}", step, account.get(what))
        log.step, log.planned = max(log.step, step), max(log.planned, line.get("steps") or 0)
        log.seconds = max(log.seconds, line.get("seconds") or 0.0)
    return logs


def _put(curves: dict[str, dict[float, float]], name: str, step: int, value: Any) -> None:
    if isinstance(value, str) and value in (
        "nan",
        "inf",
        "-inf",
    ):  # JSON has no such numbers; the log writes them as text
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        curves.setdefault(name, {})[step] = float(value)
