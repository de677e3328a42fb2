"""One page for a folder of runs: a row for each, which can be sorted, filtered and opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.report import numbers
from medvlm.report.markup import Child, Html, tag
from medvlm.report.page import make_notes, make_section, make_table, write_page
from medvlm.report.reading import Record, RunRecord, read_run
from medvlm.report.results import add_measures, describe_metric, get_interval, is_headline, is_usable, title_of
from medvlm.report.run import is_run, write_report

COLUMNS = ["run", "state", "stages", "data", "steps", "time", "parameters", "seed", "last loss", "result", "verdict"]
ABOUT = "Click a heading to sort. The menu chooses the result that the last columns show, with its 95 % interval."
STYLES = {"better": "good", "worse": "bad"}
"""Of a verdict: against every baseline."""


def report(folder: Path) -> Path:
    """Writes the report of a run, or the index of a folder of runs, into the folder."""
    run = RunFolder(folder)
    return write_report(run) if is_run(run) or not find_runs(folder) else write_index(folder, folder / "index.html")


def find_runs(folder: Path) -> list[RunFolder]:
    """The runs in a folder and in its folders, by name. A run within a run is left out, and a link to one that is
    listed already."""
    found: list[RunFolder] = []
    for path in sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []:
        run = RunFolder(path)
        if is_run(run):
            found.append(run)
        elif not path.name.startswith("."):
            found += [each for each in map(RunFolder, sorted(path.iterdir())) if is_run(each)]
    found.sort(key=lambda run: run.root.is_symlink() or run.root.parent.is_symlink())  # what is linked itself first
    listed = {run.root.resolve(): run for run in reversed(found)}
    return sorted(listed.values(), key=lambda run: run.root)


def write_index(folder: Path, to: Path) -> Path:
    """Writes the page. Reports are linked where they lie below the page. Raises RecipeError without runs."""
    runs = find_runs(folder)
    if not runs:
        raise RecipeError(f"{folder}: has no run (a folder with recipe.resolved.yaml); give a run, or a folder of runs")
    rows, attributes, lost, states = list[list[Child]](), list[dict[str, str]](), set[str](), list[str]()
    for run in runs:
        record = read_run(run)  # one at a time: a record has all answers of its run
        rows.append(_make_row(run, record, to.parent))
        attributes.append({"data_values": json.dumps(_list_results(record))})
        lost |= {f"{run.root.name}: {note}" for note in _pick(record)}
        states.append(_find_state(run, record)[0])
    table = make_table(f"{len(runs)} runs", COLUMNS, rows, {4, 5, 6, 7, 8, 9}, attributes)
    body = tag("div", table, class_="filter-rows")
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return write_page(
        to,
        title=folder.resolve().name,
        eyebrow="runs",
        head=[
            tag("p", f"{len(runs)} runs: {counts}.", class_="lead"),
            make_notes("What could not be read", sorted(lost)),
        ],
        sections=[make_section("Runs", "runs", body, about=ABOUT)],
    )


def _pick(record: RunRecord) -> list[str]:
    """Of the notes, those about damaged files."""
    return [note for note in record.notes if "damaged" in note or "unreadable" in note or "cannot be read" in note]


def _make_row(run: RunFolder, record: RunRecord, base: Path) -> list[Child]:
    state, style = _find_state(run, record)
    seconds, steps = sum(s.seconds for s in record.stages.values()), sum(s.steps for s in record.stages.values())
    size = sum(record.parameters.values())
    finished = sum(bool(stage.done.get("finished")) for stage in record.stages.values())
    losses = [s.log.get_points("loss")[-1][1] for s in record.stages.values() if s.log.get_points("loss")]
    results = _list_results(record)
    value, words, verdict = next(iter(results.values()), ("", "\N{EN DASH}", ""))
    return [
        tag("span", _link(run, base), tag("span", record.name, class_="muted small block")),
        tag("span", state, class_=f"{style} nowrap"),
        tag("span", f"{finished} of {len(record.stages)}", data_v=finished, title=", ".join(record.stages)),
        ", ".join(record.sources),
        numbers.format_whole(steps),
        _exact(numbers.format_duration(seconds) if seconds else "", round(seconds, 1) or ""),
        _exact(numbers.format_parameters(size) if size else "", size or ""),
        str(record.recipe.get("seed", "")),
        _exact(numbers.format_reading(losses[-1]), losses[-1]) if losses else "\N{EN DASH}",
        tag("span", _exact(words, value), class_="chosen", title=next(iter(results), None)),
        tag(
            "span", tag("span", verdict or "\N{EN DASH}", class_=STYLES.get(verdict, "muted")), class_="chosen-verdict"
        ),
    ]


def _exact(words: str, value: Any) -> Html:
    """A cell that is sorted by its exact value."""
    return tag("span", words, data_v=value if value != "" else None)


def _link(run: RunFolder, base: Path) -> Html:
    """The name of the folder; a link if its report lies below the page."""
    root = run.root.resolve()
    below = root.relative_to(base.resolve()) if root.is_relative_to(base.resolve()) else Path(root.name)
    if run.report.is_file() and root.is_relative_to(base.resolve()):
        return tag("a", str(below), href=quote(f"{below.as_posix()}/{run.report.name}"))
    return tag("span", str(below), title="no report yet: medvlm report writes one")


def _find_state(run: RunFolder, record: RunRecord) -> tuple[str, str]:
    """In words, with a class of the style sheet."""
    status = ""
    if run.status.is_file():
        try:
            status = str(json.loads(run.status.read_bytes()).get("status", ""))
        except (ValueError, AttributeError):
            return "damaged", "bad"
    if record.results:
        return "evaluated", "good"
    whole = record.stages and all(stage.done.get("finished") for stage in record.stages.values())
    if whole:
        return "trained", "good"
    return (status, "bad" if status in ("failed", "stalled") else "part") if status else ("unfinished", "part")


def _list_results(record: RunRecord) -> dict[str, tuple[Any, str, str]]:
    """`DATASET:SPLIT TASK: METRIC` -> value, words and verdict, of the headline."""
    rows = add_measures(record.results, record.answers)
    return {_name(row): _describe(row) for row in rows if is_usable(row) and is_headline(row)}


def _name(row: Record) -> str:
    task = row.get("title") or title_of(str(row.get("task", "")))
    return f"{row.get('dataset')}:{row.get('split')} {task}: {describe_metric(row)}"


def _describe(row: Record) -> tuple[Any, str, str]:
    ci = get_interval(row)
    interval = f" ({numbers.format_interval(ci)})" if ci else ""
    verdict = (row.get("paired") or {}).get("verdict") or ""
    return row["value"], f"{numbers.format_value(row['value'])}{interval}", verdict
