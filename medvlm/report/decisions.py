"""What a model decides about each class, as the page shows it: operating points, and how far its probabilities hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medvlm.core.errors import DataError
from medvlm.core.tasks import Decision, find_task
from medvlm.report import numbers
from medvlm.report.answers import read_truth
from medvlm.report.markup import Child, Html, tag
from medvlm.report.page import Section, make_section, make_table
from medvlm.report.reading import Record
from medvlm.report.reliability import draw_reliability

MOST_CLASSES = 20
"""Number of classes of a template that have a curve of their own."""
Decisions = dict[str, dict[str, list[Decision]]]
"""`DATASET:SPLIT, TEMPLATE` -> class -> the decision of each answer."""


def collect_decisions(answers: Iterable[Record]) -> Decisions:
    """An answer that cannot be read as one of its task, because the run is damaged or from another installation, is
    left out."""
    found: Decisions = {}
    longest: dict[str, list[str]] = {}
    for answer in answers:
        try:
            truth = read_truth(answer.get("truth") or {})
            decide = find_task(truth.task).decide
            decisions = decide(answer.get("answer"), truth, answer.get("points") or {}) if decide else ()
        except (DataError, KeyError, TypeError, ValueError):
            continue
        where = f"{answer.get('dataset')}:{answer.get('split')}, {answer.get('template')}"
        longest[where] = max(longest.get(where, []), [each.name for each in decisions], key=len)
        for each in decisions:
            found.setdefault(where, {}).setdefault(each.name, []).append(each)
    return {where: _sort(classes, longest[where]) for where, classes in found.items()}


def _sort(classes: dict[str, list[Decision]], order: Sequence[str]) -> dict[str, list[Decision]]:
    """In the order of an answer about most classes; those that it is not about follow."""
    return {name: classes[name] for name in dict.fromkeys([*order, *classes])}


def make_operating_section(found: Decisions) -> Section | None:
    """For each class its threshold, the four counts, and the shares that follow from them."""
    if not found:
        return None
    columns = ["class", "threshold", "chosen on", "found", "missed", "false alarms", "left out"]
    columns += ["sensitivity", "specificity", "PPV", "NPV"]
    tables = [
        make_table(where, columns, [_make_row(name, of) for name, of in classes.items()], {1, *range(3, len(columns))})
        for where, classes in found.items()
    ]
    about = (
        "Each class against the rest. A class is called present if its probability is at least the threshold that has"
        " the highest F1 on the validation samples, or above 0.5 where none could be chosen. Intervals are in the table"
        " of all results."
    )
    return make_section("Operating points", "operating", *tables, about=about)


def _make_row(name: str, decisions: Sequence[Decision]) -> list[Child]:
    threshold = decisions[0].threshold
    found, missed, alarms, left_out = (
        sum(d.is_there == is_there and d.is_told == is_told for d in decisions)
        for is_there, is_told in ((True, True), (True, False), (False, True), (False, False))
    )
    shares = [
        _divide(found, found + missed),
        _divide(left_out, left_out + alarms),
        _divide(found, found + alarms),
        _divide(left_out, left_out + missed),
    ]
    chosen = ["0.5", "default"] if threshold is None else [f"{threshold:.4g}", "validation"]
    return [name, *chosen, *map(numbers.format_whole, (found, missed, alarms, left_out)), *shares]


def _divide(part: int, whole: int) -> str:
    return numbers.format_value(part / whole if whole else None)


def make_reliability_section(found: Decisions) -> Section | None:
    if not found:
        return None
    blocks: list[Html] = []
    for where, classes in found.items():
        pooled = [decision for of in classes.values() for decision in of]
        blocks.append(tag("h3", where, class_="muted"))
        blocks.append(tag("div", draw_reliability("all classes, pooled", pooled), class_="curves"))
        if 1 < len(classes) <= MOST_CLASSES:
            curves = (draw_reliability(name, of) for name, of in classes.items())
            summary = tag("summary", f"each of the {len(classes)} classes")
            blocks.append(tag("details", summary, tag("div", *curves, class_="curves")))
    about = (
        "The share of positives against the mean probability, in ten bins of equal width. On the diagonal, what has a"
        " probability of 0.8 is there in 8 of 10 cases. The row of small numbers says how many labels are in each bin;"
        " a bin with few says little."
    )
    return make_section("Calibration", "calibration", *blocks, about=about)
