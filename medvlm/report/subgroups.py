"""The headline results of each group of the samples, beside the result of all."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.report import numbers
from medvlm.report.bars import choose_bar_axis, draw_bar, draw_bar_ruler, draw_baseline_key
from medvlm.report.markup import Child, Html, tag
from medvlm.report.page import Section, make_section
from medvlm.report.reading import Record
from medvlm.report.results import describe_metric, get_interval, is_headline, is_usable, title_of

ALL = "all samples"


def make_subgroups_section(results: Sequence[Record]) -> Section | None:
    """results: those of groups are named METRIC:FIELD=VALUE."""
    whole = [row for row in results if is_usable(row) and not row.get("group") and is_headline(row)]
    blocks: list[Child] = []
    for row in whole:
        own = [each for each in results if each.get("group") and is_usable(each) and _is_of(each, row)]
        if own:
            where = f"{row.get('dataset')}:{row.get('split')}"
            title = f"{row.get('title') or title_of(str(row.get('task', '')))}: {describe_metric(row)}"
            blocks.append(tag("h3", title, tag("span", f" {where}", class_="muted")))
            blocks.append(_draw_groups(row, own))
    about = (
        "The mark is the result of all samples. Intervals are not corrected for the number of groups: a group that"
        " stands out among many may do so by chance."
    )
    return make_section("Subgroups", "subgroups", *blocks, about=about) if blocks else None


def _is_of(part: Record, whole: Record) -> bool:
    same = all(part.get(key) == whole.get(key) for key in ("dataset", "split", "task"))
    return same and part.get("metric") == f"{whole.get('metric')}:{part['group']}"


def _draw_groups(whole: Record, parts: Sequence[Record]) -> Html:
    found = [number for row in parts for number in (row["value"], *(get_interval(row) or ()))]
    axis = choose_bar_axis([0.0, whole["value"], *found])
    rows = []
    for row in parts:
        field, _, value = str(row["group"]).partition("=")
        name = tag("b", value), tag("span", f"{field} \N{MIDDLE DOT} n {numbers.format_whole(row.get('n') or 0)}")
        bar = draw_bar(row["value"], get_interval(row), {ALL: whole["value"]}, [ALL], axis)
        shown = tag("b", numbers.format_value(row["value"])), tag("span", numbers.format_interval(get_interval(row)))
        cells = zip(("bar-name", "bar-track", "bar-value"), (name, (bar,), shown), strict=True)
        rows.append(tag("div", *(tag("div", *of, class_=kind) for kind, of in cells), class_="bar-row group-row"))
    ruler = tag("span"), tag("div", draw_bar_ruler(axis), class_="bar-track"), tag("span")
    rows.append(tag("div", *ruler, class_="bar-row ruler", aria_hidden="true"))
    key = tag("p", draw_baseline_key(ALL, [ALL], whole["value"]), class_="muted small")
    return tag("div", *rows, key, class_="bars")
