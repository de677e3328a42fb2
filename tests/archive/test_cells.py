"""What a cell says, in whatever form a program wrote it."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.archive.packing.deal import hash_name
from medvlm.archive.readers import hf_dataset, table
from medvlm.archive.tables.card_words import find_choice
from medvlm.archive.tables.records import records
from medvlm.core.cell_values import as_whole, identify, is_nothing, strip
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import make_truth
from medvlm.io.images import encode_png

PNG = encode_png(np.zeros((2, 3), np.uint8))
NOTHING = ["nan", "NaN", "NAN", "-nan", "<NA>", "<na>", "NaT", "#N/A", "N/A", "n/a", "NA", "None", "NULL", "null",
           "(null)", "<null>", "\\N", "#REF!", "#VALUE!", "#DIV/0!"]  # fmt: skip
SAYS = ["none", "NONE", "Normal", "0", "-", "no", "Nat", "NAT", "nano", "not", "N", "unknown"]


def write(root: Path, rows: list[dict[str, str]], name: str = "t.csv") -> None:
    with (root / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def read(root: Path, rows: list[dict[str, str]], **settings: Any) -> list[Any]:
    """A row each of films 0.png, 1.png ..."""
    for i in range(len(rows)):
        (root / f"{i}.png").write_bytes(PNG)
    write(root, [{"file": f"{i}.png", **row} for i, row in enumerate(rows)])
    media = [{"file": "{file}", "kind": "film"}]
    config = table.Config.model_validate({"kind": "table", "file": "t.csv", "media": media, **settings})
    return list(table.read(config, root))


def samples(items: list[Any]) -> list[Any]:
    return [item.sample for item in items if isinstance(item, RawSample)]


def truths(items: list[Any]) -> list[Any]:
    return [[question.truth for question in sample.questions] for sample in samples(items)]


# --- nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", NOTHING)
def test_a_word_for_nothing_is_missing_wherever_a_card_reads_text(tmp_path, word):
    settings = {
        "report": "{t}", "concept": "{t}", "patient": "{t}", "groups": {"site": "{t}"},
        "questions": [{"text": "What?", "answer": "{t}"}, {"text": "{t}", "answer": "yes"}],
    }  # fmt: skip
    items = read(tmp_path, [{"t": word}, {"t": "Clear."}], **settings)
    first, second = samples(items)
    assert (first.report, first.concept, first.patient, first.groups, first.questions) == ("", "", "", {}, ())
    assert second.report == "Clear." and len(second.questions) == 2
    assert LeftOut("cell of t with a word for nothing (nan, NULL, None ...), taken as missing", 1) in items


@pytest.mark.parametrize("word", SAYS)
def test_other_words_are_text(tmp_path, word):
    (sample,) = samples(read(tmp_path, [{"t": word}], report="{t}"))
    assert sample.report == word and not is_nothing(word)


@pytest.mark.parametrize(
    "settings",
    [
        {"not_missing": ["None"]},
        {"where": {"t": ["None"]}},
        {"rename": {"t": {"None": "None"}}},
        {"questions": [{"text": "?", "answer": "{t}", "choices": ["None", "Mild"]}]},
    ],
)
def test_a_word_for_nothing_is_a_value_where_the_card_says_so(tmp_path, settings):
    (sample,) = samples(read(tmp_path, [{"t": "None"}], report="{t}", **settings))
    assert sample.report == "None"


@pytest.mark.parametrize("text", ["\u200b", "\ufeff", " \u200b\u2060 ", "\u200e\u200f", "\xa0", "\u3000", "\u00ad"])
def test_a_text_of_which_nothing_can_be_seen_is_missing(tmp_path, text):
    items = read(tmp_path, [{"t": text}], report="{t}", questions=[{"text": "What?", "answer": "{t}"}])
    assert samples(items)[0].report == "" and truths(items) == [[]]


@pytest.mark.parametrize("text", ["\ufeffClear.", "\u200b Clear.\u200b", "Clear.\u2060 "])
def test_marks_around_a_text_are_no_part_of_it_and_those_within_it_stay(text):
    assert strip(text) == "Clear." and strip("می\u200cروم") == "می\u200cروم"


# --- numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "number"), [("3.0", 3), ("3", 3), ("3.00", 3), ("0.0", 0)])
def test_a_count_is_a_whole_number_in_every_form(tmp_path, cell, number):
    items = read(
        tmp_path, [{"n": cell}, {"n": ""}], questions=[{"text": "How many?", "answer": "{n}", "task": "count"}]
    )
    assert truths(items) == [[make_truth("count", count=number)], []]


def test_a_count_that_is_not_whole_is_left_out_and_counted(tmp_path):
    items = read(tmp_path, [{"n": "3.5"}], questions=[{"text": "How many?", "answer": "{n}", "task": "count"}])
    assert truths(items) == [[]] and LeftOut("no text or no answer for the question question", 1) in items


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["3.0", "2.0", "", "nan"], ["3", "2", "", "nan"]),
        (["3.0", "2", "-1.0"], ["3", "2", "-1"]),
        (["3.0", "2.5", "1.0"], ["3.0", "2.5", "1.0"]),
        (["1.0", "v2"], ["1.0", "v2"]),
        (["0012", "12"], ["0012", "12"]),
    ],
)
def test_a_column_of_whole_numbers_is_read_as_such_and_any_other_as_it_is(tmp_path, cells, expected):
    write(tmp_path, [{"n": cell, "x": "x"} for cell in cells])
    assert [row["n"] for _, row in records(tmp_path / "t.csv", "csv")] == expected


@pytest.mark.parametrize(
    ("cell", "choices", "choice"),
    [
        ("1.0", ["1", "0"], "1"), ("1", ["1.0", "0.0"], "1.0"), ("0.0", ["0", "1"], "0"),
        ("Yes", ["yes", "no"], "yes"), ("NO", ["yes", "no"], "no"), ("No.", ["yes", "no"], "no"),
        ("ER-", ["ER+", "ER-"], "ER-"),
    ],
)  # fmt: skip
def test_an_answer_is_the_choice_that_it_is_in_another_form(tmp_path, cell, choices, choice):
    items = read(tmp_path, [{"a": cell}], questions=[{"text": "?", "answer": "{a}", "choices": choices}])
    assert truths(items) == [[make_truth("choice", choice, choices=tuple(choices))]]


@pytest.mark.parametrize("cell", ["-1", "-1.0", "2", "0.5"])
def test_a_number_that_is_none_of_the_numbers_is_no_answer(tmp_path, cell):
    items = read(tmp_path, [{"a": cell}], questions=[{"text": "?", "answer": "{a}", "choices": ["0", "1"]}])
    assert truths(items) == [[]] and LeftOut("no text or no answer for the question question", 1) in items


def test_an_answer_that_is_two_choices_in_other_forms_is_none_of_them():
    assert find_choice("er", ["ER", "Er"]) is None and find_choice("ER", ["ER", "Er"]) == "ER"


@pytest.mark.parametrize(("cell", "known"), [("1.0", True), ("1", True), ("0.0", False), ("-1.0", None), ("nan", None)])
def test_labels_are_yes_no_or_not_known(tmp_path, cell, known):
    asked = {"text": "?", "labels": {"columns": {"mass": "{m}", "node": "{n}"}}, "template": "findings"}
    items = read(tmp_path, [{"m": cell, "n": "1.0"}], questions=[asked])
    assert truths(items)[0][0].labels == (known, True)


@pytest.mark.parametrize("settings", [{"where": {"n": ["1"]}}, {"where": {"n": ["1.0"]}}, {"missing": ["2.0"]}])
def test_numbers_of_a_card_match_in_every_form(tmp_path, settings):
    items = read(tmp_path, [{"n": "1.0"}, {"n": "2.0"}], report="{n}", **settings)
    assert [sample.report for sample in samples(items) if sample.report] == ["1"]


def test_a_renamed_number_matches_in_every_form(tmp_path):
    for key in ("1", "1.0"):
        items = read(tmp_path, [{"n": "1.0"}, {"n": "0.0"}], report="{n}", rename={"n": {key: "yes"}})
        assert [sample.report for sample in samples(items)] == ["yes", "0"]


def test_a_file_is_found_by_a_whole_number(tmp_path):
    items = read(tmp_path, [{"n": "1.0"}, {"n": "0.0"}], media=[{"file": "{n}.png", "kind": "film"}])
    assert [item.files["0"].name for item in items] == ["1.png", "0.png"]


# --- identifiers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["12", "12.0", "0012", " 12 ", "\uff11\uff12", "012.00"])
def test_a_patient_has_one_hash_in_every_form_of_the_number(form):
    assert hash_name(form, "salt", "patient") == hash_name("12", "salt", "patient")


@pytest.mark.parametrize("other", ["120", "1.2", "P12", "12a", "-12", "12.5", "1 2"])
def test_other_patients_have_other_hashes(other):
    assert hash_name(other, "salt", "patient") != hash_name("12", "salt", "patient")


@pytest.mark.parametrize("text", ["1.23457E+11", "1,2e+08", "5E+12", "1.5e15"])
def test_a_number_that_lost_digits_is_no_patient(text):
    with pytest.raises(DataError, match="scientific notation"):
        hash_name(text, "salt", "patient")


@pytest.mark.parametrize("code", ["12e34", "1e10", "E+12", "a1.5e15"])
def test_codes_that_look_a_little_like_numbers_are_identifiers(code):
    assert identify(code) == code and as_whole(code) == code


# --- rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csv", "tsv"])
@pytest.mark.parametrize("line", ["1.png|left|Clear.", "1.png", "1.png|A|left"])
def test_a_row_with_fewer_values_than_columns_is_bad(tmp_path, form, line):
    lines = ["file|site|side|report", "0.png|A|left|Nodule.", line, "2.png|A|right|Mass."]
    (tmp_path / f"t.{form}").write_text("\n".join(lines).replace("|", "," if form == "csv" else "\t"))
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(PNG)
    media = [{"file": "{file}", "kind": "film"}]
    config = table.Config.model_validate({"kind": "table", "file": f"t.{form}", "media": media, "report": "{report}"})
    bad, *good = table.read(config, tmp_path)
    assert isinstance(bad, BadSample) and "fewer values than the table has columns" in bad.reason
    assert bad.where == f"line 3 of t.{form}"
    assert [sample.report for sample in samples(good)] == ["Nodule.", "Mass."]


def test_a_column_without_a_name_may_lack_its_value(tmp_path):
    (tmp_path / "t.csv").write_text("file,report,\n0.png,Clear.\n1.png,Mass.,\n")
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(PNG)
    media = [{"file": "{file}", "kind": "film"}]
    config = table.Config.model_validate({"kind": "table", "file": "t.csv", "media": media, "report": "{report}"})
    assert [sample.report for sample in samples(list(table.read(config, tmp_path)))] == ["Clear.", "Mass."]


def test_a_short_row_of_a_joined_table_is_refused(tmp_path):
    (tmp_path / "more.csv").write_text("file,site,report\n0.png,A,Clear.\n1.png,Mass.\n")
    with pytest.raises(DataError, match="record 3 has fewer values than the table has columns"):
        read(tmp_path, [{"x": "1"}], join=[{"file": "more.csv", "on": ["file"]}], report="{report}")


@pytest.mark.parametrize(
    ("head", "hint"),
    [
        ("file;report", "seem to be separated by ';'"),
        ("file\treport", "seem to be separated by tabs"),
        ("file|report", "seem to be separated by '|'"),
        ("sep=;\nfile;report", "Excel's `sep=`"),
        ("sep=,\nfile,report", "Excel's `sep=`"),
    ],
)
def test_a_table_with_another_delimiter_is_refused_with_that_delimiter(tmp_path, head, hint):
    (tmp_path / "t.csv").write_text(f"{head}\n0.png;x\n")
    media = [{"file": "{file}", "kind": "film"}]
    config = table.Config.model_validate({"kind": "table", "file": "t.csv", "media": media, "report": "{report}"})
    with pytest.raises(DataError, match="no column 'file'") as caught:
        list(table.read(config, tmp_path))
    assert hint in str(caught.value) and "report" not in str(caught.value)


def test_a_data_set_of_the_library_reads_cells_as_a_table_does(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "image": [{"bytes": encode_png(np.full((2, 3), i, np.uint8)), "path": None} for i in range(4)],
        "n": [3.0, 2.0, None, float("nan")],
        "text": ["nan", "None", "\u200b", "Clear."],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    asked = {"text": "How many?", "answer": "{n}", "task": "count"}
    settings = {"file": "a.parquet", "media": [{"column": "image", "kind": "film"}], "report": "{text}"}
    config = hf_dataset.Config.model_validate({"kind": "hf_dataset", **settings, "questions": [asked]})
    items = list(hf_dataset.read(config, tmp_path))
    assert [sample.report for sample in samples(items)] == ["", "", "", "Clear."]
    assert [[truth.count for truth in each] for each in truths(items)] == [[3], [2], [], []]
    assert json.loads("[3.0]") == [3]
