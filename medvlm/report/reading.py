"""Reads a run folder. Unfinished, interrupted and old runs can be read too."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from medvlm.core.config import permit
from medvlm.core.document import read_yaml
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.core.stored import explain_misfit, require_type
from medvlm.report.forms import (
    DrawnAnswer,
    EvaluatedSplit,
    MetricsLine,
    ResultRow,
    RunLineage,
    RunStatus,
    ShownAnswer,
    StageEnd,
)

STATUS = {
    "failed": "The last attempt to train ended with {}. The page shows what was saved before.",
    "preempted": "The run was asked to stop and saved a checkpoint; start it again to resume.",
}
Point = tuple[float, float]
Record = dict[str, Any]


@dataclass
class StageLog:
    """Curves of one stage: name -> step -> value. If a step was logged twice, before and after an interruption, the
    later value counts."""

    train: dict[str, dict[float, float]] = field(default_factory=dict)
    validation: dict[str, dict[float, float]] = field(default_factory=dict)
    planned: int = 0
    step: int = 0
    seconds: float = 0.0

    def get_points(self, name: str) -> list[Point]:
        return sorted(self.train.get(name, {}).items())

    def get_validations(self, name: str) -> list[Point]:
        return sorted(self.validation.get(name, {}).items())


@dataclass
class StageRecord:
    """settings: from the recipe. done: from stage.json, which is written at the end of a stage. Any field may be
    empty."""

    settings: Record
    done: Record
    log: StageLog

    @property
    def steps(self) -> int:
        return max(self.log.step, self.done.get("step") or 0)

    @property
    def planned(self) -> int:
        return self.log.planned or self.done.get("steps") or self.settings.get("steps") or 0

    @property
    def seconds(self) -> float:
        return self.done.get("seconds") or self.log.seconds


@dataclass
class RunRecord:
    """Everything that the page shows. stages: by name, in recipe order. notes: sentences about what is missing or
    damaged."""

    name: str
    recipe: Record
    lineage: Record
    stages: dict[str, StageRecord]
    results: list[Record]
    answers: list[Record]
    notes: list[str]
    rollouts: dict[str, dict[int, list[Record]]] = field(default_factory=dict)
    """Stage -> stored step -> answers that were drawn in it."""
    evaluated: list[Record] = field(default_factory=list)
    """How each split was evaluated."""

    @property
    def sources(self) -> dict[str, Record]:
        return self.lineage.get("sources") or {}

    @property
    def parameters(self) -> dict[str, int]:
        return (self.lineage.get("model") or {}).get("parameters") or {}


def sort_splits(splits: Iterable[str]) -> list[str]:
    """train, val, test, then folds and all others."""
    known = ("train", "val", "test")
    return sorted(splits, key=lambda s: (known.index(s) if s in known else len(known), len(s), s))


def read_run(run: RunFolder) -> RunRecord:
    notes: list[str] = []
    recipe = _read_recipe(run.recipe, notes)
    plugins = recipe.get("plugins")
    permit(plugins if isinstance(plugins, list) else ())  # the answers may be of their tasks
    logs = {} if recipe.get("stages") == [] else _read_logs(run.metrics, notes)
    listed = recipe.get("stages")
    written = [s for s in listed if isinstance(s, dict)] if isinstance(listed, list) else []
    settings = {str(s.get("name", f"stage {i + 1}")): s for i, s in enumerate(written)}
    names = [*settings, *(n for n in logs if n not in settings)]
    if not names:
        names = sorted(p.parent.name for p in run.root.glob("*/stage.json"))
    stages = {
        n: StageRecord(
            settings.get(n, {}), _read_json(run.stage(n) / "stage.json", StageEnd, notes), logs.get(n, StageLog())
        )
        for n in names
    }
    notes += [
        f"Stage {n} is not finished: step {s.steps:,}{f' of {s.planned:,}' if s.planned else ''}."
        for n, s in stages.items()
        if s.log.train and not s.done
    ]
    untouched = [n for n, s in stages.items() if not s.done and not s.log.train]
    notes += [f"Not started: {', '.join(untouched)}."] if untouched else []
    status = _read_json(run.status, RunStatus, notes)
    notes += [STATUS[s].format(status.get("reason") or "an error") for s in STATUS if status.get("status") == s]
    lineage = _read_json(
        run.lineage,
        RunLineage,
        notes,
        "There is no lineage.json: data cards, licence and parameter counts are not shown.",
    )
    results = _read_json(
        run.results,
        list[ResultRow],
        notes,
        "There is no evaluation yet, so nothing is known about the model's quality.",
    )
    answers = _read_answers(run, notes)
    if skipped := _read_lines(run.quarantine, Any, notes):
        notes.append(
            f"{len(skipped)} {'sample was' if len(skipped) == 1 else 'samples were'} skipped because they could not be"
            " read (quarantine.jsonl)."
        )
    evaluated = _read_json(run.results.with_name("protocol.json"), list[EvaluatedSplit], notes)
    notes += [note for each in evaluated for note in _explain_evaluation(each)]
    if results and not answers:
        notes.append("The evaluation saved no answers, so there is no gallery.")
    return RunRecord(
        str(recipe.get("name") or run.root.resolve().name), recipe, lineage, stages, results, answers, notes,
        _read_rollouts(run, names, notes), evaluated,
    )  # fmt: skip


def _explain_evaluation(evaluated: Record) -> list[str]:
    """What the results of a split are not of, and who judged."""
    where, notes = f"{evaluated.get('dataset')}:{evaluated.get('split')}", []
    if (shards := evaluated.get("shards") or {}).get("limit"):
        notes.append(f"{where} was evaluated on {shards.get('samples')} randomly drawn samples, not on all.")
    notes += [f"{where}: {what} was not checked ({why})." for what, why in (evaluated.get("not_checked") or {}).items()]
    if judge := evaluated.get("judge"):
        notes.append(
            f"{where} has scores that the model {judge.get('model')} gave as a judge; its prompts are in"
            " evaluate/protocol.json."
        )
    return notes


def _read_answers(run: RunFolder, notes: list[str]) -> list[Record]:
    """The records of every protocol that asks questions, in the order of the protocols' names."""
    paths = sorted({run.answers, *run.answers.parent.glob("*.jsonl")})
    return [a for path in paths for a in _read_lines(path, ShownAnswer, notes) if "question" in a]


def _read_rollouts(run: RunFolder, stages: Iterable[str], notes: list[str]) -> dict[str, dict[int, list[Record]]]:
    """What each stage with rewards stored of its answers, of the first and the last step."""
    found: dict[str, dict[int, list[Record]]] = {}
    for stage in stages:
        paths = {}
        for path in (run.stage(stage) / "rollouts").glob("step-*.jsonl"):
            if (number := path.stem.removeprefix("step-")).isdecimal():
                paths[int(number)] = path
        for step in sorted({min(paths), max(paths)}) if paths else []:
            found.setdefault(stage, {})[step] = _read_lines(paths[step], DrawnAnswer, notes)
    return found


def _read_recipe(path: Path, notes: list[str]) -> Record:
    if not path.is_file():
        notes.append(f"There is no {path.name}: the stages are shown in the order they were logged.")
        return {}
    try:
        return read_yaml(path, path.name).data
    except RecipeError as reason:
        notes.append(f"The recipe of this run cannot be read: {reason}.")
        return {}


def _read_json(path: Path, form: Any, notes: list[str], missing: str = "") -> Any:
    """The file's content if it is of this form, else an empty one. missing: the note if there is no file."""
    empty: Any = [] if get_origin(form) is list else {}
    if not path.exists():
        if missing:
            notes.append(missing)
        return empty
    try:
        value = json.loads(path.read_bytes())
        require_type(value, form)
    except (OSError, ValueError, RecursionError) as reason:
        notes.append(f"{path.parent.name}/{path.name} is damaged and was left out ({explain_misfit(reason)}).")
        return empty
    return value


def _read_lines(path: Path, form: Any, notes: list[str]) -> list[Any]:
    """The parsed JSON lines of a file, of this form. An incomplete last line is left out, with a note."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    out, bad = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            require_type(value, form)
            out.append(value)
        except (ValueError, RecursionError):
            bad.append(number)
    if bad and bad[-1] == len(lines):
        bad.pop()
        notes.append(
            f"The last line of {path.name} is incomplete and was left out. The run is writing it, or was interrupted."
        )
    if bad:
        notes.append(
            f"{path.name}: {len(bad)} unreadable {'line' if len(bad) == 1 else 'lines'} left out (first: line"
            f" {bad[0]})."
        )
    return out


def _read_logs(path: Path, notes: list[str]) -> dict[str, StageLog]:
    if not path.is_file():
        notes.append("There is no metrics.jsonl: nothing was logged, so there are no curves.")
        return {}
    logs: dict[str, StageLog] = {}
    for line in _read_lines(path, MetricsLine, notes):
        if not {"stage", "step"} <= line.keys():
            continue
        log = logs.setdefault(line["stage"], StageLog())
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
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):  # JSON has no such numbers, so the log has text
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        curves.setdefault(name, {})[step] = float(value)
