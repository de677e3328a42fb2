"""Result rows as a plain-text table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medvlm.core.errors import list_some
from medvlm.core.protocols import Row
from medvlm.core.scoring import name_source
from medvlm.evaluate.protocols import _robustness, _sensitivity

WIDTH = 110
SCREEN = 30
"""Of more rows, those of classes and subgroups are left out."""
_MARGIN = 2


def format_table(rows: Sequence[Row]) -> str:
    """Aligned lines of at most 110 columns, with a heading for each data set and split. If names of metrics do not fit
    beside all baselines, rows that share no baseline are listed apart, each with its own columns. Names that are still
    too long are cut, numbers never.

    More than SCREEN rows are listed without those of classes and subgroups. A part that equals the whole (the only
    template of its task, or closed questions if all are closed) is not repeated.
    """
    if not rows:
        return "no results"
    whole = rows = _drop_twins(rows)
    if len(rows) > SCREEN:
        rows = [row for row in rows if not _is_detail(row)]
    blocks = [rows]
    if not _fit(rows, _list_cells(rows)):
        blocks = _split_by_baselines(rows)
    lines: list[str] = []
    of = ""
    for block in blocks:
        of, of_block = _format_block(block, of)
        lines += ([""] if lines else []) + of_block
    notes = list_notes([row for row in whole if row in rows or row["ci"]])
    if details := len(whole) - len(rows):
        notes.append(f"{details} rows of classes and subgroups are in results.json and in the report (medvlm report)")
    return "\n".join([*lines, "", *notes] if notes else lines)


def _is_detail(row: Row) -> bool:
    """Of a class, or of a subgroup."""
    return "=" in row["metric"] or row["metric"].count(":") > 1


def _split_by_baselines(rows: Sequence[Row]) -> list[list[Row]]:
    blocks: list[list[Row]] = []
    names: set[str] = set()
    for row in rows:
        own = set(row["baselines"])
        if not blocks or (own and names and not own & names):
            blocks.append([])
            names = set()
        blocks[-1].append(row)
        names |= own
    return blocks


def _list_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The heading of the columns of numbers, then those of each row."""
    names = list(dict.fromkeys(name for row in rows for name in row["baselines"]))
    numbers = [[_format_number(row["value"]), _interval(row["ci"]), str(row["n"])] for row in rows]
    cells = [
        [*own, *(_format_number(row["baselines"][name]) if name in row["baselines"] else "" for name in names)]
        for own, row in zip(numbers, rows, strict=True)
    ]
    return [["value", "95 % interval", "n", *names], *cells]


def _measure(rows: Sequence[Row], cells: Sequence[Sequence[str]]) -> tuple[int, int, list[int], int]:
    """Widths of the columns: of the task, of the longest metric, of the numbers; and the room for the metric."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    task = max(len(text) for text in ("task", *(row["task"] for row in rows)))
    metric = max(len(text) for text in ("metric", *(row["metric"] for row in rows)))
    return task, metric, widths, WIDTH - task - _MARGIN - sum(width + _MARGIN for width in widths)


def _fit(rows: Sequence[Row], cells: Sequence[Sequence[str]]) -> bool:
    _, metric, _, room = _measure(rows, cells)
    return metric <= room


def _format_block(rows: Sequence[Row], of: str) -> tuple[str, list[str]]:
    """of: the data set and split of the lines above. Returns that of the last row, and lines with the same columns."""
    header, *cells = _list_cells(rows)
    task_width, longest, widths, room = _measure(rows, [header, *cells])
    metric_width = min(longest, max(room, len("metric")))

    def line(task: str, metric: str, numbers: Sequence[str]) -> str:
        gap = " " * _MARGIN
        shown = metric if len(metric) <= metric_width else f"{metric[: metric_width - 3]}..."
        return gap.join(
            [
                task.ljust(task_width),
                shown.ljust(metric_width),
                *(text.rjust(width) for text, width in zip(numbers, widths, strict=True)),
            ]
        ).rstrip()

    lines: list[str] = []
    for row, numbers in zip(rows, cells, strict=True):
        where = f"{row['dataset']}:{row['split']}"
        if where != of:
            lines += ([""] if lines else []) + [where]
        if where != of or not lines:
            lines.append(line("task", "metric", header))
        of = where
        lines.append(line(row["task"], row["metric"], numbers))
    return of, lines


def list_notes(rows: Sequence[Row]) -> list[str]:
    """What a reader has to know of the rows beside their numbers."""
    notes = []
    pointless: dict[tuple[str, str], list[str]] = {}
    unanswered: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        split = f"{row['dataset']}:{row['split']}"
        where = f"{split} {row['task']} {row['metric']}"
        if row["ci"] is None:
            why = "all patients have the same value, or only one has a label that the metric needs"
            why = "all of its questions are of one patient" if row["patients"] < 2 else why
            pointless.setdefault((split, why), []).append(f"{row['task']} {row['metric']}")
        for who, count in row["unanswered"].items():
            unanswered.setdefault((split, who), {})[f"{row['task']} {count} of {row['n']}"] = None
        if unread := row.get("unread"):
            notes.append(f"{where}: {unread} of {row['n'] + unread} answers have no readable score")
        if meaning := explain(row) or _robustness.confirm(row):
            notes.append(f"{split}: {meaning}")
    notes += [
        f"{split}{f' {metrics[0]}' if len(metrics) == 1 else ''}: no interval, {why}"
        + (f" ({list_some(metrics)})" if len(metrics) > 1 else "")
        for (split, why), metrics in pointless.items()
    ]
    notes += dict.fromkeys(
        f"{row['task']}: the published rule of {source}" for row in rows if (source := name_source(row["task"]))
    )
    for (split, who), counts in unanswered.items():
        notes.append(
            f"{split}: {who} could not be asked some questions ({', '.join(counts)}) and is compared on the others"
        )
    return notes


def explain(row: Mapping[str, Any]) -> str:
    """What is wrong with a model, as a row proves it; "" if it proves nothing."""
    return _sensitivity.explain(row) or _robustness.explain(row)


def _drop_twins(rows: Sequence[Row]) -> list[Row]:
    of = {(row["dataset"], row["split"], row["task"], row["metric"]): row for row in rows}

    def is_twin(row: Row) -> bool:
        whole = of.get(
            (row["dataset"], row["split"], row["task"], row["metric"].partition(":")[0].removesuffix("_closed"))
        )
        return whole is not None and whole is not row and {**whole, "metric": row["metric"]} == row

    return [row for row in rows if not is_twin(row)]


def _interval(ci: Sequence[float] | None) -> str:
    return f"[{_format_number(ci[0])}, {_format_number(ci[1])}]" if ci else "none"


def _format_number(number: float) -> str:
    """Three decimals; none for numbers of 100 and more."""
    return f"{number:.3f}" if abs(number) < 100 else f"{number:.0f}"
