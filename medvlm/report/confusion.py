"""Confusion matrices, one for each question template whose answers are classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from medvlm.core.tasks import Drawing
from medvlm.report import numbers
from medvlm.report.markup import Html, tag
from medvlm.report.page import Section, make_section
from medvlm.report.reading import Record

MOST_CLASSES = 20
"""A wider table would not be readable, so it is not shown."""


def make_confusion_section(answers: Iterable[tuple[Record, Drawing]]) -> Section | None:
    """A table per template, with a row for each true class and a column for each answered class."""
    counts: dict[str, Counter[tuple[str, str]]] = {}
    for record, drawing in answers:
        if drawing.told:
            where = f"{record.get('dataset')}:{record.get('split')}, {record.get('template')}"
            counts.setdefault(where, Counter())[drawing.told] += 1
    tables = [_make_table(where, of_where) for where, of_where in counts.items()]
    shown = [table for table in tables if table is not None]
    about = "Each row is a true class, each column is what the model answered. The diagonal is correct."
    return make_section("Confusion", "confusion", *shown, about=about) if shown else None


def _make_table(where: str, counts: Counter[tuple[str, str]]) -> Html | None:
    classes = sorted({name for pair in counts for name in pair})
    if len(classes) > MOST_CLASSES:
        return None
    head = tag("tr", tag("th", "true / answered"), *(tag("th", name, scope="col") for name in classes))
    rows = []
    for true in classes:
        total = sum(counts[true, found] for found in classes)
        cells = (_make_cell(counts[true, found], total, true == found) for found in classes)
        rows.append(tag("tr", tag("th", true, scope="row"), *cells))
    return tag("table", tag("caption", where), tag("thead", head), tag("tbody", *rows), class_="confusion")


def _make_cell(count: int, total: int, is_right: bool) -> Html:
    share = f"{numbers.format_value(count / total)} of the row" if total else ""
    return tag("td", numbers.format_whole(count), title=share, class_="right" if is_right else None)
