"""The results: a headline with the most important numbers, and a table with all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache

from medvlm.core.config import is_available
from medvlm.core.measure import Measure
from medvlm.core.scoring import name_source
from medvlm.core.tasks import find_task, list_tasks
from medvlm.evaluate.measures import join_measures
from medvlm.report import numbers
from medvlm.report.bars import choose_bar_axis, draw_bar, draw_bar_ruler, draw_baseline_key
from medvlm.report.markup import Child, Html, join, tag
from medvlm.report.page import Section, make_section, make_table
from medvlm.report.reading import Record
from medvlm.report.scales import Axis

HEADLINE = frozenset({"image_to_text_top1", "total", "accuracy_reasoned", "refused_other_modality", "refused_no_image"})
"""Metrics in the headline, in addition to the measures that tasks mark for it. All others are only in the table."""
SPOKEN = {
    **{
        f"{way.replace(' ', '_')}_top{k}": f"{way}, top {k}"
        for way in ("image to text", "text to image")
        for k in (1, 5, 10)
    },
    **{f"image_to_image_precision{k}": f"image to image, precision at {k}" for k in (1, 5, 10)},
    "image_to_image_map": "image to image, mean average precision",
    "accuracy_reasoned": "accuracy with a rationale",
    "refused_other_modality": "refused with an image of another modality",
    "refused_no_image": "refused without an image",
    "changed": "answers that another patient's image changes",
    "right_lost": "right answers that it makes wrong",
}


def add_measures(results: list[Record], answers: list[Record]) -> list[Record]:
    """The results, each with its measure and the title of its task. answers: determine which tasks there are."""
    tasks = {str((answer.get("truth") or {}).get("task", "")) for answer in answers}
    tasks = {task for task in tasks if is_available("tasks", task)}
    found = {(measure.group, measure.metric): measure for measure in join_measures(tasks)}
    titles = {measure.group: find_task(task).TITLE for task in tasks for measure in find_task(task).MEASURES}
    return [
        {**row, "measure": found.get(_name_of(row)), "title": titles.get(str(row.get("task", "")))} for row in results
    ]


def _find_measure(row: Record) -> Measure | None:
    """The measure of a row. None if the row belongs to no task, or to one that is not installed."""
    return row.get("measure") or _list_our_measures().get(_name_of(row))


def _name_of(row: Record) -> tuple[str, str]:
    return str(row.get("task", "")), _split_metric(row)[0]


@cache
def _list_our_measures() -> dict[tuple[str, str], Measure]:
    return {(measure.group, measure.metric): measure for measure in join_measures(list_tasks())}


@cache
def title_of(group: str) -> str:
    """The title of a group of measures, from its tasks."""
    ours = map(find_task, list_tasks())
    titles = (task.TITLE for task in ours if any(measure.group == group for measure in task.MEASURES))
    return next(filter(None, titles), group[:1].upper() + group[1:])


def is_usable(row: Record) -> bool:
    """Whether a result has a number. If there was nothing to score it has none, and is only in the table."""
    return is_number(row.get("value"))


def is_lower_better(row: Record) -> bool:
    measure = _find_measure(row)
    return measure is not None and measure.better == "lower"


def make_headline_section(results: list[Record]) -> Section | None:
    """Each overall metric as a bar with its interval and baselines. Parts of a metric (`accuracy:side`) are only in the
    table."""
    usable = [r for r in results if is_usable(r)]
    overall = [r for r in usable if is_headline(r) and not _is_repeated(r, usable)] or [
        r for r in usable if not _split_metric(r)[1]
    ]
    if not overall:
        return None
    names = list_baselines(usable)
    blocks: list[Child] = []
    # Shares have a common axis, so that their bars can be compared. All other metrics have their own unit.
    shares = [r for r in overall if not is_lower_better(r) and _is_share(r)]
    if shares:
        axis = Axis(0, 1, 0, 100)
        ruler = tag(
            "div",
            tag("span"),
            tag("div", draw_bar_ruler(axis), class_="bar-track"),
            tag("span"),
            class_="bar-row ruler",
            aria_hidden="true",
        )
        blocks.append(_make_block("Higher is better", [*(_make_row(r, names, axis) for r in shares), ruler]))
    other = [r for r in overall if r not in shares]
    for title, group in (
        ("Higher is better", [r for r in other if not is_lower_better(r)]),
        ("Lower is better", [r for r in other if is_lower_better(r)]),
    ):
        if group:
            blocks.append(
                _make_block(title, [_make_row(r, names, choose_bar_axis(_numbers_of(r)), ruler=True) for r in group])
            )
    about = (
        "On held-out samples. The whisker is the 95 % interval. The outlined marks are baselines that were"
        " measured in the same run. A result means something only as far as it is better than its baselines: the line"
        " below it states the difference from the strongest one, question by question, with its 95 % interval."
    )
    return make_section("Results at a glance", "headline", *blocks, about=about)


def is_headline(row: Record) -> bool:
    """Whether the top of the page shows it."""
    measure = _find_measure(row)
    return not _split_metric(row)[1] and (row.get("metric") in HEADLINE or (measure is not None and measure.headline))


def _is_repeated(row: Record, rows: list[Record]) -> bool:
    """Whether the accuracy of closed questions equals the accuracy, because all questions are closed."""
    same = [r for r in rows if all(r.get(k) == row.get(k) for k in ("dataset", "split", "task", "n", "value"))]
    return row.get("metric") == "accuracy_closed" and any(r.get("metric") == "accuracy" for r in same)


def _make_block(title: str, rows: Iterable[Child]) -> Html:
    return join([tag("h3", title, class_="muted"), tag("div", *rows, class_="bars")])


def _make_row(row: Record, names: list[str], axis: Axis, ruler: bool = False) -> Html:
    """ruler: the row has its own axis, whose numbers are shown under it."""
    baselines = get_baselines(row)
    where = f"{row.get('dataset', '')}:{row.get('split', '')}"
    n = f" \N{MIDDLE DOT} n {numbers.format_whole(row['n'])}" if row.get("n") else ""
    keys = [draw_baseline_key(b, names, baselines[b]) for b in sorted(baselines, key=names.index)]
    return tag(
        "div",
        tag(
            "div",
            tag("b", f"{row.get('title') or title_of(str(row.get('task', '')))}: {describe_metric(row)}"),
            tag("span", where + n),
            class_="bar-name",
        ),
        tag(
            "div",
            draw_bar(row["value"], get_interval(row), baselines, names, axis),
            draw_bar_ruler(axis) if ruler else None,
            class_="bar-track",
        ),
        tag(
            "div",
            tag("b", numbers.format_value(row["value"])),
            tag("span", numbers.format_interval(get_interval(row))),
            class_="bar-value",
        ),
        tag("p", *keys, describe_verdict(row)),
        class_="bar-row",
    )


def describe_verdict(row: Record) -> Html:
    """The paired difference in words. Without one, the text makes no claim."""
    paired = row.get("paired") or {}
    if not get_baselines(row):
        return tag("span", "no baseline was measured", class_="verdict part")
    if not is_number(paired.get("difference")):
        return tag("span", "no paired difference was measured", class_="verdict")
    difference, ci = paired["difference"], get_interval(paired)
    gain = -difference if is_lower_better(row) else difference
    against = paired.get("against")
    if not ci:
        return tag(
            "span",
            f"{_compare(gain, str(against))}, without an interval: no conclusion",
            class_="verdict part",
        )
    low, high = sorted(ci if gain == difference else [-x for x in ci])
    # Results of before there was a verdict were compared with the strongest baseline alone.
    verdict = paired.get("verdict", "better" if low > 0 else "worse" if high < 0 else "")
    if verdict == "better":
        size = f"{numbers.format_value(gain)} ({numbers.format_interval([low, high])})"
        return tag("span", f"\N{CHECK MARK} better than {against} by {size}", class_="verdict good")
    if verdict == "worse":
        size = f"{numbers.format_value(-gain)} ({numbers.format_interval([-high, -low])})"
        return tag("span", f"\N{BALLOT X} worse than {against} by {size}", class_="verdict bad")
    interval = numbers.format_interval([low, high])
    size = f"{_compare(gain, str(against))}, interval of the gain {interval}"
    words = f"no significant difference: {size}"
    if low > 0:
        words = f"{size}, but not significantly better than every baseline"
    if high < 0:
        words = f"{size}, not significant with {len(get_baselines(row))} baselines compared"
    return tag("span", f"\N{ALMOST EQUAL TO} {words}", class_="verdict part")


def _compare(gain: float, against: str) -> str:
    if not gain:
        return f"equal to {against}"
    return f"{numbers.format_value(abs(gain))} {'better' if gain > 0 else 'worse'} than {against}"


def make_results_section(results: list[Record]) -> Section | None:
    if not results:
        return None
    groups = [r for r in results if r.get("group")]
    whole = [r for r in results if not _split_metric(r)[1]]
    parts = [r for r in results if _split_metric(r)[1] and r not in groups]
    tables = [_make_table("Results with intervals, number of scored items and baselines", whole)] if whole else []
    if parts:
        summary = tag("summary", f"the same by question template ({len(parts)} rows)")
        tables.append(tag("details", summary, _make_table("Results of each question template", parts), open=not whole))
    if groups:
        summary = tag("summary", f"the same by group of the samples ({len(groups)} rows)")
        tables.append(
            tag("details", summary, _make_table("Results of subgroups, not corrected for their number", groups))
        )
    about = (
        "An arrow shows which direction is better. The paired difference is computed question by question on the same"
        " samples."
    )
    sources = dict.fromkeys((group, name_source(group)) for group in (str(row.get("task", "")) for row in results))
    about += "".join(f" {group} is the published rule of {source}." for group, source in sources if source)
    return make_section("All results", "results", *tables, about=about)


def _make_table(caption: str, results: list[Record]) -> Html:
    names = list_baselines(results)
    numeric = {3, 5, *range(6, 6 + len(names) + 1)}
    rows: list[list[Child]] = []
    for row in results:
        baselines, paired, measure = get_baselines(row), row.get("paired") or {}, _find_measure(row)
        arrow = "\N{DOWNWARDS ARROW}" if is_lower_better(row) else "\N{UPWARDS ARROW}"
        if measure.better is None if measure else not paired:
            arrow = ""
        difference = paired.get("difference")
        against = tag(
            "span",
            add_sign(difference),
            tag("br"),
            tag(
                "span",
                f"{paired.get('against')}: {numbers.format_interval(get_interval(paired))}",
                class_="muted small",
            ),
        )
        rows.append(
            [
                f"{row.get('dataset', '')}:{row.get('split', '')}",
                str(row.get("task", "")),
                tag("span", f"{describe_metric(row)} ", tag("span", arrow, class_="muted"), class_="nowrap"),
                tag("strong", numbers.format_value(row["value"]) if is_usable(row) else "not scored"),
                tag("span", numbers.format_interval(get_interval(row)), class_="nowrap"),
                _describe_number(row),
                *(numbers.format_value(baselines.get(n)) for n in names),
                against if is_number(difference) else "\N{EN DASH}",
            ]
        )
    columns = ["data", "task", "metric", "value", "95 % interval", "n", *names, "paired difference"]
    return make_table(caption, columns, rows, numeric)


def _describe_number(row: Record) -> str:
    """The number of scored items, and of those without a readable score of the judge."""
    if not isinstance(row.get("n"), int | float):
        return "\N{EN DASH}"
    unread = f" ({numbers.format_whole(row['unread'])} unread)" if isinstance(row.get("unread"), int) else ""
    return numbers.format_whole(row["n"]) + unread


def list_baselines(results: list[Record]) -> list[str]:
    return list(dict.fromkeys(n for r in results for n in get_baselines(r)))


def describe_metric(row: Record) -> str:
    """The metric's name in words: `accuracy:side` becomes `accuracy, side`, and abbreviations are written out."""
    name, part = _split_metric(row)
    measure = _find_measure(row)
    words = (measure.words if measure else "") or SPOKEN.get(name, name.replace("_", " "))
    return words + (f", {part.replace('_', ' ')}" if part else "")


def _split_metric(row: Record) -> tuple[str, str]:
    name, _, part = str(row.get("metric", "")).replace("/", ":").partition(":")
    return name, part


def get_baselines(row: Record) -> dict[str, float]:
    return {str(n): v for n, v in (row.get("baselines") or {}).items() if is_number(v)}


def get_interval(row: Record) -> list[float] | None:
    ci = row.get("ci")
    return list(ci) if isinstance(ci, list) and len(ci) == 2 and all(map(is_number, ci)) else None


def is_number(value: object) -> bool:
    """Whether it is a finite one; a score may be NaN, which the JSON of a browser does not have."""
    return isinstance(value, int | float) and math.isfinite(value)


def _numbers_of(row: Record) -> list[float]:
    return [row["value"], *(get_interval(row) or ()), *get_baselines(row).values()]


def _is_share(row: Record) -> bool:
    return all(0 <= v <= 1 for v in _numbers_of(row))


def add_sign(x: float | None) -> str:
    return "" if x is None else f"+{numbers.format_value(x)}" if x > 0 else numbers.format_value(x)
