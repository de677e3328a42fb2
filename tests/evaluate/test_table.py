from __future__ import annotations

from medvlm.core.protocols import Row
from medvlm.evaluate.table import WIDTH, format_table


def row(task: str, metric: str, value: float, dataset: str = "phantom", **baselines: float) -> Row:
    ci: list[float] | None = [value - 0.05, value + 0.05]
    return {
        "dataset": dataset,
        "split": "test",
        "task": task,
        "metric": metric,
        "value": value,
        "ci": ci,
        "n": 812,
        "patients": 73,
        "baselines": baselines,
        "unanswered": {},
        "paired": None,
    }


def test_the_table_by_hand() -> None:
    rows = [
        row("vqa", "accuracy", 0.931, blind=0.357, majority=0.361),
        row("count", "mae", 123.4, blind=1.21),
        row("retrieval", "top1", 0.5, "cells", chance=0.0139),
    ]
    assert (
        format_table(rows)
        == """\
phantom:test
task       metric    value   95 % interval    n  blind  majority  chance
vqa        accuracy  0.931  [0.881, 0.981]  812  0.357     0.361
count      mae         123      [123, 123]  812  1.210

cells:test
task       metric    value   95 % interval    n  blind  majority  chance
retrieval  top1      0.500  [0.450, 0.550]  812                    0.014"""
    )


def test_long_names_are_cut_to_the_width_and_numbers_are_not() -> None:
    rows = [
        row(
            "vqa", f"accuracy:{'very long template ' * 9}", 0.123456, blind=0.2, shuffled=0.3, majority=0.4, chance=0.5
        ),
        row("count", "mae", 12345.6),
    ]
    lines = format_table(rows).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert "..." in lines[2] and "0.123" in lines[2] and lines[2].endswith("0.500")
    assert "12346" in lines[3]


def test_rows_without_a_common_baseline_have_columns_of_their_own_where_names_do_not_fit() -> None:
    rows = [
        row("vqa", "accuracy", 0.5, blind=0.4, shuffled=0.4, majority=0.3, nearest=0.1),
        row("image", "changed", 0.5),
        row("reasoning", "accuracy_reasoned:presence of a finding", 0.6, direct=0.5, other=0.2),
        row("reasoning", "accuracy_reasoned:presence of a side", 0.7, direct=0.5, other=0.2),
        row("refusals", "refused_other_modality", 0.8, own_image=0.1),
    ]
    assert (
        format_table(rows)
        == """\
phantom:test
task   metric    value   95 % interval    n  blind  shuffled  majority  nearest
vqa    accuracy  0.500  [0.450, 0.550]  812  0.400     0.400     0.300    0.100
image  changed   0.500  [0.450, 0.550]  812

task       metric                                   value   95 % interval    n  direct  other
reasoning  accuracy_reasoned:presence of a finding  0.600  [0.550, 0.650]  812   0.500  0.200
reasoning  accuracy_reasoned:presence of a side     0.700  [0.650, 0.750]  812   0.500  0.200

task      metric                  value   95 % interval    n  own_image
refusals  refused_other_modality  0.800  [0.750, 0.850]  812      0.100"""
    )


def test_no_rows() -> None:
    assert format_table([]) == "no results"


def test_a_part_that_is_the_whole_is_shown_once() -> None:
    rows = [
        row("vqa", "accuracy", 0.9),
        row("vqa", "accuracy:side", 0.95),
        row("vqa", "accuracy:zone", 0.85),
        row("vqa", "accuracy_closed", 0.9),
    ]
    rows += [row("count", "mae", 1.5), row("count", "mae:count:clip", 1.5), row("count", "exact", 1.5)]
    shown = [line.split()[1] for line in format_table(rows).splitlines()[2:]]
    assert shown == ["accuracy", "accuracy:side", "accuracy:zone", "mae", "exact"]


def test_what_limits_a_row_is_said_below_the_table() -> None:
    alone: Row = {**row("vqa", "accuracy", 0.5, blind=0.4), "ci": None, "patients": 1}
    equal: Row = {**row("count", "mae", 0.0, blind=0.4), "ci": None}
    lacking: Row = {**row("vqa", "accuracy:side", 0.6, blind=0.4, shuffled=0.4), "unanswered": {"shuffled": 3}}
    assert format_table([alone, equal, lacking]).splitlines()[-3:] == [
        "phantom:test vqa accuracy: no interval, all of its questions are of one patient",
        "phantom:test count mae: no interval, all patients have the same value, or only one has a label that the metric"
        " needs",
        "phantom:test: shuffled could not be asked some questions (vqa 3 of 812) and is compared on the others",
    ]


def test_rows_without_interval_for_the_same_reason_are_one_note() -> None:
    rows: list[Row] = [
        {**row("vqa", f"accuracy:{name}", 0.5 + at / 10, blind=0.4), "ci": None, "patients": 1}
        for at, name in enumerate("ab")
    ]
    assert format_table(rows).splitlines()[-1] == (
        "phantom:test: no interval, all of its questions are of one patient (vqa accuracy:a, vqa accuracy:b)"
    )


def test_many_rows_are_listed_without_those_of_classes_and_subgroups() -> None:
    plain = [row("labels", f"{name}:findings", 0.5) for name in "abcdefghij"]
    details = [row("labels", f"{name}:findings:{of}", 0.5) for name in "abcdefghij" for of in ("x", "y")]
    details += [row("labels", "a:sex=F", 0.5)]
    details[0]["ci"] = None
    table = format_table([*plain, *details])
    assert "a:findings" in table and ":x" not in table and "sex=F" not in table and "no interval" not in table
    assert table.endswith("21 rows of classes and subgroups are in results.json and in the report (medvlm report)")
    assert "sex=F" in format_table([*plain, details[-1]]), "few enough"
