"""The numbers: a headline a glance can read, and the table with everything."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache

from medvlm.core.config import is_available
from medvlm.core.measure import Measure
from medvlm.core.tasks import find_task, list_tasks
from medvlm.evaluate.measures import join_measures
from medvlm.report import numbers
from medvlm.report.bars import bar, bar_axis, bar_ruler, baseline_key
from medvlm.report.markup import Child, Html, join, tag
from medvlm.report.page import Section, section, table
from medvlm.report.reading import Record
from medvlm.report.scales import Axis

HEADLINE = frozenset({"image_to_text_top1", "total"})
"""Beside the measures of tasks that say so: what a glance needs; the rest is in the table."""
SPOKEN = {"image_to_text_top1": "image to text, top 1", "text_to_image_top1": "text to image, top 1"}


def add_measures(results: list[Record], answers: list[Record]) -> list[Record]:
    """Results with the measure that each is a row of, and what its task is called. answers: say which tasks there
    are."""
    tasks = {str((answer.get("truth") or {}).get("task", "")) for answer in answers}
    tasks = {task for task in tasks if is_available("tasks", task)}
    found = {(measure.group, measure.metric): measure for measure in join_measures(tasks)}
    titles = {measure.group: find_task(task).TITLE for task in tasks for measure in find_task(task).MEASURES}
    return [
        {**row, "measure": found.get(_name_of(row)), "title": titles.get(str(row.get("task", "")))} for row in results
    ]


def _measure(row: Record) -> Measure | None:
    """None for a row of no task, or of one that is not installed here."""
    return row.get("measure") or _our_measures().get(_name_of(row))


def _name_of(row: Record) -> tuple[str, str]:
    return str(row.get("task", "")), _split_metric(row)[0]


@cache
def _our_measures() -> dict[tuple[str, str], Measure]:
    return {(measure.group, measure.metric): measure for measure in join_measures(list_tasks())}


@cache
def title_of(group: str) -> str:
    """Of a group of measures, as its tasks call it."""
    ours = map(find_task, list_tasks())
    titles = (task.TITLE for task in ours if any(measure.group == group for measure in task.MEASURES))
    return next(filter(None, titles), group[:1].upper() + group[1:])


def is_usable(row: Record) -> bool:
    """A result without a number (nothing to score) is only in the table."""
    return _is_number(row.get("value"))


def lower_is_better(row: Record) -> bool:
    measure = _measure(row)
    return measure is not None and measure.better == "lower"


def headline_section(results: list[Record]) -> Section | None:
    """Each overall metric as a bar with its interval and its baselines; parts of a metric (`accuracy:side`) stay in the
    table."""
    usable = [r for r in results if is_usable(r)]
    overall = [r for r in usable if _is_headline(r) and not _is_repeated(r, usable)] or [
        r for r in usable if not _split_metric(r)[1]
    ]
    if not overall:
        return None
    names = baseline_names(usable)
    blocks: list[Child] = []
    # Shares have one axis, so that their bars compare; everything else has a unit of its own.
    shares = [r for r in overall if not lower_is_better(r) and _is_share(r)]
    if shares:
        axis = Axis(0, 1, 0, 100)
        ruler = tag(
            "div",
            tag("span"),
            tag("div", bar_ruler(axis), class_="bar-track"),
            tag("span"),
            class_="bar-row ruler",
            aria_hidden="true",
        )
        blocks.append(_block("Higher is better", [*(_row(r, names, axis) for r in shares), ruler]))
    other = [r for r in overall if r not in shares]
    for title, group in (
        ("Higher is better", [r for r in other if not lower_is_better(r)]),
        ("Lower is better", [r for r in other if lower_is_better(r)]),
    ):
        if group:
            blocks.append(_block(title, [_row(r, names, bar_axis(_numbers_of(r)), ruler=True) for r in group]))
    about = (
        "On held-out samples. The whisker is the 95 % bootstrap interval; the outlined marks are baselines measured in"
        " the same run. A result counts only as far as it is beyond them: in brackets, the 95 % interval of that paired"
        " difference."
    )
    return section("Results at a glance", "headline", *blocks, about=about)


def _is_headline(row: Record) -> bool:
    measure = _measure(row)
    return not _split_metric(row)[1] and (row.get("metric") in HEADLINE or (measure is not None and measure.headline))


def _is_repeated(row: Record, rows: list[Record]) -> bool:
    """Where all questions are closed, their accuracy is the accuracy."""
    same = [r for r in rows if all(r.get(k) == row.get(k) for k in ("dataset", "split", "task", "n", "value"))]
    return row.get("metric") == "accuracy_closed" and any(r.get("metric") == "accuracy" for r in same)


def _block(title: str, rows: Iterable[Child]) -> Html:
    return join([tag("h3", title, class_="muted"), tag("div", *rows, class_="bars")])


def _row(row: Record, names: list[str], axis: Axis, ruler: bool = False) -> Html:
    """ruler: the row has an axis of its own, so its numbers stand under it."""
    baselines = _baselines(row)
    where = f"{row.get('dataset', '')}:{row.get('split', '')}"
    n = f" \N{MIDDLE DOT} n {numbers.whole(row['n'])}" if row.get("n") else ""
    keys = [baseline_key(b, names, baselines[b]) for b in sorted(baselines, key=names.index)]
    return tag(
        "div",
        tag(
            "div",
            tag("b", f"{row.get('title') or title_of(str(row.get('task', '')))}: {metric_words(row)}"),
            tag("span", where + n),
            class_="bar-name",
        ),
        tag(
            "div",
            bar(row["value"], _interval(row), baselines, names, axis),
            bar_ruler(axis) if ruler else None,
            class_="bar-track",
        ),
        tag(
            "div",
            tag("b", numbers.value(row["value"])),
            tag("span", numbers.interval(_interval(row))),
            class_="bar-value",
        ),
        tag("p", *keys, verdict(row)),
        class_="bar-row",
    )


def verdict(row: Record) -> Html:
    """The paired difference in words. Without one nothing is claimed."""
    paired = row.get("paired") or {}
    if not _baselines(row):
        return tag("span", "no baseline was measured", class_="verdict part")
    if not _is_number(paired.get("difference")):
        return tag("span", "no paired difference was measured", class_="verdict")
    difference, ci = paired["difference"], _interval(paired)
    gain = -difference if lower_is_better(row) else difference
    against = paired.get("against")
    if not ci:
        return tag(
            "span",
            f"{numbers.value(abs(gain))} {_side(gain)} than {against}, without an interval: not told apart",
            class_="verdict part",
        )
    low, high = sorted(ci if gain == difference else [-x for x in ci])
    if low <= 0 <= high:
        size = f"{numbers.value(abs(gain))} {_side(gain)}, interval of the gain {numbers.interval([low, high])}"
        return tag("span", f"\N{ALMOST EQUAL TO} not told apart from {against}: {size}", class_="verdict part")
    if gain > 0:
        return tag(
            "span",
            f"\N{CHECK MARK} better than {against} by {numbers.value(gain)} ({numbers.interval([low, high])})",
            class_="verdict good",
        )
    return tag(
        "span",
        f"\N{BALLOT X} worse than {against} by {numbers.value(-gain)} ({numbers.interval([-high, -low])})",
        class_="verdict bad",
    )


def _side(gain: float) -> str:
    return "better" if gain > 0 else "worse"


def results_section(results: list[Record]) -> Section | None:
    if not results:
        return None
    whole, parts = [r for r in results if not _split_metric(r)[1]], [r for r in results if _split_metric(r)[1]]
    tables = [_table("Results with intervals, number of scored items and baselines", whole)] if whole else []
    if parts:
        summary = tag("summary", f"the same by question template ({len(parts)} rows)")
        tables.append(tag("details", summary, _table("Results of each question template", parts), open=not whole))
    about = (
        "An arrow says which way is better. The paired difference is taken question by question on the same samples."
    )
    return section("All results", "results", *tables, about=about)


def _table(caption: str, results: list[Record]) -> Html:
    names = baseline_names(results)
    numeric = {3, 5, *range(6, 6 + len(names) + 1)}
    rows: list[list[Child]] = []
    for row in results:
        baselines, paired = _baselines(row), row.get("paired") or {}
        arrow = (
            ""
            if (measure := _measure(row)) is not None and measure.better is None
            else "\N{DOWNWARDS ARROW}"
            if lower_is_better(row)
            else "\N{UPWARDS ARROW}"
        )
        difference = paired.get("difference")
        against = tag(
            "span",
            _add_sign(difference),
            tag("br"),
            tag("span", f"{paired.get('against')}: {numbers.interval(_interval(paired))}", class_="muted small"),
        )
        rows.append(
            [
                f"{row.get('dataset', '')}:{row.get('split', '')}",
                str(row.get("task", "")),
                tag("span", f"{metric_words(row)} ", tag("span", arrow, class_="muted"), class_="nowrap"),
                tag("strong", numbers.value(row["value"]) if is_usable(row) else "not scored"),
                tag("span", numbers.interval(_interval(row)), class_="nowrap"),
                numbers.whole(row["n"]) if isinstance(row.get("n"), int | float) else "\N{EN DASH}",
                *(numbers.value(baselines.get(n)) for n in names),
                against if _is_number(difference) else "\N{EN DASH}",
            ]
        )
    columns = ["data", "task", "metric", "value", "95 % interval", "n", *names, "paired difference"]
    return table(caption, columns, rows, numeric)


def baseline_names(results: list[Record]) -> list[str]:
    return list(dict.fromkeys(n for r in results for n in _baselines(r)))


def metric_words(row: Record) -> str:
    """`accuracy:side` is `accuracy, side`; abbreviations are written out."""
    name, part = _split_metric(row)
    measure = _measure(row)
    words = (measure.words if measure else "") or SPOKEN.get(name, name.replace("_", " "))
    return words + (f", {part.replace('_', ' ')}" if part else "")


def _split_metric(row: Record) -> tuple[str, str]:
    name, _, part = str(row.get("metric", "")).replace("/", ":").partition(":")
    return name, part


def _baselines(row: Record) -> dict[str, float]:
    return {str(n): v for n, v in (row.get("baselines") or {}).items() if _is_number(v)}


def _interval(row: Record) -> list[float] | None:
    ci = row.get("ci")
    return list(ci) if isinstance(ci, list) and len(ci) == 2 and all(map(_is_number, ci)) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _numbers_of(row: Record) -> list[float]:
    return [row["value"], *(_interval(row) or ()), *_baselines(row).values()]


def _is_share(row: Record) -> bool:
    return all(0 <= v <= 1 for v in _numbers_of(row))


def _add_sign(x: float | None) -> str:
    return "" if x is None else f"+{numbers.value(x)}" if x > 0 else numbers.value(x)
