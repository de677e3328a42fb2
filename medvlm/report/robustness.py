"""Robustness: what is left of the performance where images, wordings, options or the distribution change."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.evaluate.protocols._robustness import CHANGES, RATIO, find_robustness
from medvlm.report import numbers
from medvlm.report.markup import Child, Html, tag
from medvlm.report.page import Section, make_section, make_table
from medvlm.report.reading import Record
from medvlm.report.results import add_sign, describe_metric, get_baselines, get_interval, is_usable

MARKS = {"robust": ("good", "\N{CHECK MARK} robust"), "fragile": ("bad", "\N{BALLOT X} fragile")}


def is_of_robustness(row: Record) -> bool:
    return row.get("task") in CHANGES


def make_robustness_section(results: list[Record]) -> Section | None:
    rows = [row for row in results if is_of_robustness(row) and is_usable(row)]
    blocks: list[Child] = []
    for where in dict.fromkeys((row.get("dataset"), row.get("split"), str(row["task"])) for row in rows):
        own = [row for row in rows if (row.get("dataset"), row.get("split"), row["task"]) == where]
        dataset, split, group = where
        blocks.append(tag("h3", f"{CHANGES[group][:1].upper()}{CHANGES[group][1:]} \N{MIDDLE DOT} {dataset}:{split}"))
        blocks.append(_make_table(f"Results with {CHANGES[group]}", [row for row in own if not _find_degree(row)]))
        degrees = [row for row in own if _find_degree(row)]
        for metric in dict.fromkeys(_find_metric(row) for row in degrees):
            blocks.append(_make_grid([row for row in degrees if _find_metric(row) == metric]))
    about = (
        f"Relative robustness ({RATIO.rstrip('_')}) is the share of the performance that is left: 1 where nothing is"
        " lost. Consistent is the share of questions whose answers are all the same, unchanged the share of answers"
        " that stay. Robust and fragile are said only where the whole interval is above or below 0.9."
    )
    return make_section("Robustness", "robustness", *blocks, about=about) if blocks else None


def _find_metric(row: Record) -> str:
    return str(row["metric"]).partition(":")[0]


def _find_degree(row: Record) -> tuple[str, str] | None:
    """(family, number) of a row of one variant, such as `accuracy:jpeg 3`."""
    family, space, number = str(row["metric"]).partition(":")[2].rpartition(" ")
    return (family, number) if space else None


def _make_table(caption: str, rows: Sequence[Record]) -> Html:
    names = list(dict.fromkeys(name for row in rows for name in get_baselines(row)))
    lines: list[list[Child]] = []
    for row in rows:
        kind, words = MARKS.get(find_robustness(row), ("part", _describe_difference(row)))
        lines.append(
            [
                describe_metric(row),
                tag("strong", numbers.format_value(row["value"])),
                tag("span", numbers.format_interval(get_interval(row)), class_="nowrap"),
                numbers.format_whole(row["n"]) if row.get("n") else "\N{EN DASH}",
                *(numbers.format_value(get_baselines(row).get(name)) for name in names),
                tag("span", words, class_="nowrap muted" if kind == "part" else f"verdict {kind}"),
            ]
        )
    columns = [
        "metric",
        "value",
        "95 % interval",
        "n",
        *(name.replace("_", " ") for name in names),
        "difference, verdict",
    ]
    return make_table(caption, columns, lines, {1, 3, *range(4, 4 + len(names))})


def _describe_difference(row: Record) -> str:
    """From the strongest baseline, which is that without the change if there is one."""
    paired = row.get("paired") or {}
    if not isinstance(paired.get("difference"), int | float):
        return ""
    interval = get_interval(paired)
    return add_sign(paired["difference"]) + (f" ({numbers.format_interval(interval)})" if interval else "")


def _make_grid(rows: Sequence[Record]) -> Html:
    """A line for each family of variants, a column for each number."""
    value_of = {_find_degree(row): row for row in rows}
    families, degrees = (list(dict.fromkeys(part)) for part in zip(*filter(None, value_of), strict=True))
    lines: list[list[Child]] = []
    for family in families:
        cells: list[Child] = []
        for degree in degrees:
            row = value_of.get((family, degree))
            interval = numbers.format_interval(get_interval(row)) if row else ""
            cells.append(tag("span", numbers.format_value(row["value"]), title=interval) if row else "\N{EN DASH}")
        lines.append([str(family).replace("_", " "), *cells])
    caption = f"{describe_metric({**rows[0], 'metric': _find_metric(rows[0])})} by kind and number"
    return make_table(caption, ["", *degrees], lines, set(range(1, 1 + len(degrees))))
