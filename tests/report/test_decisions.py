"""Operating points, reliability curves and confusion of class scores, and that the page says how many labels they are
of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medvlm.report.answers import draw_answer
from medvlm.report.confusion import make_confusion_section
from medvlm.report.decisions import collect_decisions, make_operating_section, make_reliability_section
from medvlm.tasks import labels

CLASSES = ("edema", "mass", "fracture")
CASES: list[tuple[list[float], tuple[bool | None, ...]]] = [
    ([0.9, 0.6, 0.1], (True, None, False)),
    ([0.4, 0.6, 0.2], (True, True, False)),
    ([0.35, 0.2, 0.3], (False, True, False)),
    ([0.1, 0.1, 0.1], (False, False, None)),
]
RECORDS = [
    {
        "dataset": "d", "split": "test", "key": f"k{number}", "template": "findings", "answer": scores,
        "truth": labels.Truth(classes=CLASSES, labels=known, exclusive=False).to_json(), "points": {"edema": 0.35},
    }
    for number, (scores, known) in enumerate(CASES)
]  # fmt: skip


def read_tables(html: Any, parse: Callable[[Any], Any]) -> list[list[list[str]]]:
    tables = parse(html).all("table")
    return [[[c.words() for c in row.all("th") + row.all("td")] for row in table.all("tr")] for table in tables]


def test_operating_points_are_the_counts_at_the_threshold_of_the_class(parse: Callable[[Any], Any]) -> None:
    section = make_operating_section(collect_decisions(RECORDS))
    assert section is not None
    (table,) = read_tables(section.html, parse)
    dash = "\N{EN DASH}"
    assert table[0][:7] == ["class", "threshold", "chosen on", "found", "missed", "false alarms", "left out"]
    assert table[1:] == [
        ["edema", "0.35", "validation", "2", "0", "1", "1", "1.00", "0.50", "0.67", "1.00"],
        ["mass", "0.5", "default", "1", "1", "0", "1", "0.50", "1.00", "1.00", "0.50"],
        ["fracture", "0.5", "default", "0", "0", "0", "3", dash, "1.00", dash, "1.00"],
    ]


def test_a_reliability_curve_says_how_many_labels_are_in_each_bin(parse: Callable[[Any], Any]) -> None:
    section = make_reliability_section(collect_decisions(RECORDS))
    assert section is not None
    figures = parse(section.html).all("figure")
    assert [figure.all("strong")[0].words() for figure in figures] == ["all classes, pooled", *CLASSES]
    edema = figures[1]
    said = [point.all("title")[0].words() for point in edema.all("circle")]
    assert said == [
        "mean probability 0.10, 0.00 are there, n 1",
        "mean probability 0.38, 0.50 are there, n 2",
        "mean probability 0.90, 1.00 are there, n 1",
    ]
    below = [text.text for text in edema.all("text")]
    assert below[below.index("n") + 1 :] == ["1", "0", "0", "2", "0", "0", "0", "0", "1", "0"]
    error = (1 * 0.1 + 2 * 0.125 + 1 * 0.1) / 4
    assert f"calibration error {error:.2f}" in edema.words() and "n 4" in edema.words()


def test_each_class_that_excludes_no_other_has_a_confusion_table(parse: Callable[[Any], Any]) -> None:
    decisions = collect_decisions(RECORDS)
    section = make_confusion_section([(record, draw_answer(record)) for record in RECORDS], decisions)
    assert section is not None
    tables = read_tables(section.html, parse)
    assert tables[0] == [["true / answered", "absent", "present"], ["absent", "1", "1"], ["present", "0", "2"]]
    assert tables[2] == [["true / answered", "absent"], ["absent", "3"]] and len(tables) == 3


def test_grades_stand_in_their_order(parse: Callable[[Any], Any]) -> None:
    grades = ("none", "mild", "severe")
    records = [
        {**RECORDS[0], "answer": [0.2, 0.5, 0.3], "truth": labels.Truth(classes=grades, labels=known).to_json()}
        for known in ((True, False, False), (False, True, False), (False, False, True))
    ]
    drawn = [(record, draw_answer(record)) for record in records]
    section = make_confusion_section(drawn, collect_decisions(records))
    assert section is not None
    (table,) = read_tables(section.html, parse)
    assert table[0] == ["true / answered", *grades]


def test_what_is_no_answer_of_its_task_is_left_out() -> None:
    broken: list[Any] = [{"truth": {"task": "labels", "classes": 3}}, {"truth": None}, {}, {"truth": {"task": "angle"}}]
    assert collect_decisions(broken) == {}
    assert make_operating_section({}) is make_reliability_section({}) is None
