"""Confusion matrices: one for each question template whose classes exclude each other, and one for each class of the
others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from medvlm.core.tasks import Decision, Drawing
from medvlm.report import numbers
from medvlm.report.decisions import Decisions
from medvlm.report.markup import Html, tag
from medvlm.report.page import Section, make_section
from medvlm.report.reading import Record

MOST_CLASSES = 20
"""A wider table would not be readable, so it is not shown."""
WORDS = {False: "absent", True: "present"}


def make_confusion_section(answers: Iterable[tuple[Record, Drawing]], decisions: Decisions) -> Section | None:
    """A table per template, with a row for each true class and a column for each answered class. Templates without
    exclusive classes have a table for each class that was decided about."""
    counts: dict[str, Counter[tuple[str, str]]] = {}
    for record, drawing in answers:
        if drawing.told:
            where = f"{record.get('dataset')}:{record.get('split')}, {record.get('template')}"
            counts.setdefault(where, Counter())[drawing.told] += 1
    tables = [_make_table(where, of_where, decisions.get(where, ())) for where, of_where in counts.items()]
    shown = [table for table in tables if table is not None]
    for where, classes in decisions.items():
        if where not in counts:
            small = (
                _make_table(f"{where}: {name}", _count_decisions(of_class), tuple(WORDS.values()))
                for name, of_class in classes.items()
            )
            shown.append(tag("div", *small, class_="curves"))
    about = "Each row is a true class, each column is what the model answered. The diagonal is correct."
    return make_section("Confusion", "confusion", *shown, about=about) if shown else None


def _count_decisions(decisions: Iterable[Decision]) -> Counter[tuple[str, str]]:
    return Counter((WORDS[each.is_there], WORDS[each.is_told]) for each in decisions)


def _make_table(where: str, counts: Counter[tuple[str, str]], order: Collection[str]) -> Html | None:
    """order: of the classes, as far as it is known."""
    names = {name for pair in counts for name in pair}
    classes = [*(name for name in order if name in names), *sorted(names - {*order})]
    if len(classes) > MOST_CLASSES:
        return None
    head = tag("tr", tag("th", "true / answered"), *(tag("th", name, scope="col") for name in classes))
    rows = []
    for true in classes:
        total = sum(counts[true, found] for found in classes)
        cells = (_make_cell(counts[true, found], total, true == found) for found in classes)
        rows.append(tag("tr", tag("th", true, scope="row"), *cells))
    table = tag("table", tag("caption", where), tag("thead", head), tag("tbody", *rows), class_="confusion")
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=where)


def _make_cell(count: int, total: int, is_right: bool) -> Html:
    share = f"{numbers.format_value(count / total)} of the row" if total else ""
    return tag("td", numbers.format_whole(count), title=share, class_="right" if is_right else None)
