"""What a table does not hold itself: other tables, files of text, parts of values, the study before, several files a
split."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.archive.readers.table import Config, read
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import make_truth
from medvlm.io.images import encode_png

PNG = encode_png(np.zeros((2, 3), np.uint8))


def config(**settings: Any) -> Config:
    return Config.model_validate(
        {"kind": "table", "file": "t.csv", "media": [{"file": "{image}", "kind": "film"}], **settings}
    )


def write(root: Path, name: str, rows: list[dict[str, Any]]) -> None:
    with (root / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def films(root: Path, *days: tuple[str, str, str]) -> list[dict[str, str]]:
    """days: (image, patient, day)."""
    rows = [{"image": f"{image}.png", "who": who, "day": day, "note": f"note {image}"} for image, who, day in days]
    for row in rows:
        (root / row["image"]).write_bytes(PNG)
    write(root, "t.csv", rows)
    return rows


def good(root: Path, **settings: Any) -> list[RawSample]:
    return [item for item in read(config(**settings), root) if isinstance(item, RawSample)]


# --- other tables ---------------------------------------------------------------------------------


def test_a_joined_table_gives_its_columns_to_the_rows_with_the_same_values(tmp_path):
    films(tmp_path, ("a", "7", "1"), ("b", "7", "2"), ("c", "8", "1"))
    write(tmp_path, "more.csv", [{"who": "7", "day": "2", "side": "left"}, {"who": "8", "day": "1", "side": "right"}])
    raws = good(tmp_path, join=[{"file": "more.csv", "on": ["who", "day"]}], report="{note}, {side}")
    assert [raw.sample.report for raw in raws] == ["", "note b, left", "note c, right"]


def test_a_column_of_the_row_itself_comes_first(tmp_path):
    films(tmp_path, ("a", "7", "1"))
    write(tmp_path, "more.csv", [{"who": "7", "note": "of the other table"}])
    (raw,) = good(tmp_path, join=[{"file": "more.csv", "on": ["who"]}], report="{note}")
    assert raw.sample.report == "note a"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (
            [{"who": "7", "side": "left"}, {"who": "7", "side": "right"}],
            "record 3 says something else than an earlier one with the same who",
        ),
        ([{"whom": "7", "side": "left"}], "record 2 has no column 'who'"),
    ],
)
def test_a_joined_table_that_contradicts_itself_is_refused(tmp_path, rows, reason):
    films(tmp_path, ("a", "7", "1"))
    write(tmp_path, "more.csv", rows)
    with pytest.raises(DataError, match=reason):
        good(tmp_path, join=[{"file": "more.csv", "on": ["who"]}], report="{side}")


def test_a_column_that_no_table_has_is_refused(tmp_path):
    films(tmp_path, ("a", "7", "1"))
    write(tmp_path, "more.csv", [{"who": "7", "side": "left"}])
    with pytest.raises(DataError, match="no column 'sides', did you mean 'side'"):
        good(tmp_path, join=[{"file": "more.csv", "on": ["who"]}], report="{sides}")
    with pytest.raises(DataError, match=r"other\.csv: there is no such table"):
        good(tmp_path, join=[{"file": "other.csv", "on": ["who"]}], report="{side}")


# --- parts and texts -------------------------------------------------------------------------------


def test_named_groups_of_a_pattern_become_columns(tmp_path):
    films(tmp_path, ("p12-left", "7", "1"), ("other", "8", "1"))
    raws = good(
        tmp_path,
        parts={"image": r"^p(?P<number>\d+)-(?P<side>\w+)\."},
        patient="{number}",
        concept="{side}",
        rename={"side": {"left": "L"}},
    )
    assert [(raw.sample.patient, raw.sample.concept) for raw in raws] == [("12", "L"), ("", "")]


@pytest.mark.parametrize(("pattern", "reason"), [("(", "is not a regular expression"), (r"\d+", "has no named group")])
def test_a_pattern_without_names_is_refused(pattern, reason):
    with pytest.raises(ValueError, match=reason):
        config(parts={"image": pattern})


def test_texts_stand_in_files_whose_paths_are_made_of_columns_and_have_parts_themselves(tmp_path):
    films(tmp_path, ("a", "71", "1"), ("b", "82", "1"))
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "71.txt").write_text("HISTORY: cough.\n\nFINDINGS: Clear\nlungs.\n", encoding="utf-8")
    settings = {
        "texts": {"text": "{ten}/{who}.txt"},
        "parts": {"who": r"^(?P<ten>\d)", "text": r"(?s)FINDINGS:(?P<findings>.*)"},
        "report": "{findings}",
    }
    items = list(read(config(**settings), tmp_path))
    assert [item.sample.report for item in items if isinstance(item, RawSample)] == ["Clear\nlungs.", ""]
    assert LeftOut("no file of text for text", 1) in items


@pytest.mark.parametrize(
    ("path", "data", "reason"),
    [
        ("a.txt", b"\xff\xfe", "its text text is not UTF-8"),
        ("a.txt", b"x" * (1 << 20) + b"x", "more than 1 MiB"),
        ("../a.txt", b"x", "leads out of the root"),
    ],
)
def test_a_text_that_cannot_be_read_is_one_bad_sample(tmp_path, path, data, reason):
    root = tmp_path / "root"
    root.mkdir()
    films(root, ("a", "7", "1"))
    (root / path).write_bytes(data)
    (bad,) = read(config(texts={"text": path}, report="{text}"), root)
    assert isinstance(bad, BadSample) and reason in bad.reason and bad.where == "line 2 of t.csv"


# --- the study before --------------------------------------------------------------------------------


PAIRS: dict[str, Any] = {
    "key": "{image}",
    "prior": {"of": "{who}", "order": ["day"]},
    "media": [{"file": "{prior.image}", "kind": "film"}, {"file": "{image}", "kind": "film"}],
}


def pairs(root: Path, **settings: Any) -> dict[str, list[str]]:
    return {
        raw.sample.key[0]: [path.stem for path in raw.files.values()] for raw in good(root, **{**PAIRS, **settings})
    }


def test_a_film_comes_with_the_last_earlier_one_of_its_patient(tmp_path):
    films(tmp_path, ("c", "7", "10"), ("a", "7", "-1"), ("b", "7", "9.5"), ("x", "8", "9"))
    assert pairs(tmp_path) == {"c": ["b", "c"], "a": ["a"], "b": ["a", "b"], "x": ["x"]}


def test_the_members_of_a_pair_are_in_order_and_its_texts_may_speak_of_both(tmp_path):
    films(tmp_path, ("a", "7", "1"), ("b", "7", "2"))
    question = {"text": "Before: {prior.note}. And now?", "answer": "{note}"}
    first, second = good(tmp_path, **PAIRS, questions=[question])
    assert [medium.member for medium in second.sample.media] == ["0", "1"] and first.sample.questions == ()
    assert [(q.text, q.truth) for q in second.sample.questions] == [
        ("Before: note a. And now?", make_truth("open", "note b"))
    ]


def test_films_of_one_time_are_not_each_others_prior(tmp_path):
    films(tmp_path, ("a", "7", "1"), ("b", "7", "1"), ("c", "7", "2"))
    assert pairs(tmp_path) == {"a": ["a"], "b": ["b"], "c": ["a", "c"]}


def test_an_order_may_count_back_and_have_several_columns(tmp_path):
    films(tmp_path, ("a", "7", "-1"), ("b", "7", "-5"))
    assert pairs(tmp_path, prior={"of": "{who}", "order": ["-day"]}) == {"a": ["a"], "b": ["a", "b"]}
    write(
        tmp_path,
        "t.csv",
        [
            {"image": f"{i}.png", "who": "7", "day": "3", "time": time}
            for i, time in (("a", "93000.5"), ("b", "101500"))
        ],
    )
    assert pairs(tmp_path, prior={"of": "{who}", "order": ["day", "time"]}) == {
        "a": ["a"],
        "b": ["a", "b"],
    }, "as numbers, not as text"


@pytest.mark.parametrize("nothing", ["", "nan", "NULL", "NaT"])
def test_a_film_without_a_time_has_no_prior_and_is_none(tmp_path, nothing):
    films(tmp_path, ("a", "7", "1"), ("b", "7", nothing), ("d", "7", "2"), ("e", "", "3"))
    assert pairs(tmp_path) == {"a": ["a"], "b": ["b"], "d": ["a", "d"], "e": ["e"]}
    counted = {item.reason: item.count for item in read(config(**PAIRS), tmp_path) if isinstance(item, LeftOut)}
    assert counted["row without a patient or a time to order it by: it has no prior and is none"] == 2
    assert counted["prior: row without an earlier study of its patient"] == 1


@pytest.mark.parametrize(
    "days",
    [
        ("2019-05-01", "2020-02-01", "2021-03-01"),
        ("2019/5/1", "2020/2/1", "2021/3/1"),
        ("20190501", "2020-02-01", "20210301"),
        ("2019-05-01", "2019-05-01 08:30", "2019-05-01T23:30:15.5"),
        ("8:30", "08:30:01", "23:59"),
        ("83000", "08:30:01", "235900.5"),
        ("-3", "2.0", "2.5"),
    ],
)
def test_dates_and_times_order_studies_in_every_form_that_is_certain(tmp_path, days):
    first, second, third = days
    films(tmp_path, ("c", "7", third), ("a", "7", first), ("b", "7", second))
    assert pairs(tmp_path) == {"c": ["b", "c"], "a": ["a"], "b": ["a", "b"]}


@pytest.mark.parametrize(
    "day", ["01.02.2020", "5/1/2019", "?", "inf", "May 2019", "2019-02-30", "2019-13-01", "25:00", "12:75", "2019-05"]
)
def test_a_time_that_cannot_be_read_is_refused_with_its_place(tmp_path, day):
    films(tmp_path, ("a", "7", "20190501"), ("b", "7", day), ("c", "7", "20210301"))
    with pytest.raises(DataError, match=r"line 3 of t.csv: column day is .*name the value in `missing`"):
        pairs(tmp_path)
    assert pairs(tmp_path, missing=[day])["c"] == ["a", "c"]


@pytest.mark.parametrize(
    "days", [("2019-05-01", "120"), ("7", "2019-05-01"), ("190501", "20180501"), ("2019", "20190501")]
)
def test_dates_and_other_numbers_in_one_column_are_refused(tmp_path, days):
    films(tmp_path, *((image, "7", day) for image, day in zip("ab", days, strict=True)))
    with pytest.raises(DataError, match="column day is no date, unlike other rows"):
        pairs(tmp_path)


def test_a_prior_is_that_of_the_patient_in_every_form_of_the_number(tmp_path):
    films(tmp_path, ("a", "0012", "1"), ("b", "12", "2"), ("c", "13", "3"))
    assert pairs(tmp_path) == {"a": ["a"], "b": ["a", "b"], "c": ["c"]}


@pytest.mark.parametrize(("here", "there"), [("12", "12.0"), ("12", "0012"), ("0012", "12"), ("a  b", "a b")])
def test_a_join_finds_its_partner_in_every_form_of_an_identifier(tmp_path, here, there):
    films(tmp_path, ("a", here, "1"))
    write(tmp_path, "more.csv", [{"who": there, "side": "left"}, {"who": "x", "side": "right"}])
    (raw,) = good(tmp_path, join=[{"file": "more.csv", "on": ["who"]}], report="{side}")
    assert raw.sample.report == "left"


def test_a_join_takes_the_form_as_written_first_and_refuses_to_choose_among_others(tmp_path):
    films(tmp_path, ("a", "12", "1"), ("b", "012", "1"))
    write(tmp_path, "more.csv", [{"who": who, "side": side} for who, side in (("12", "left"), ("0012", "right"))])
    items = list(read(config(join=[{"file": "more.csv", "on": ["who"]}], report="{side}"), tmp_path))
    assert [item.sample.report for item in items if isinstance(item, RawSample)] == ["left"]
    assert ["stands in more.csv in several forms" in item.reason for item in items if isinstance(item, BadSample)] == [
        True
    ]


def test_rows_without_a_partner_are_counted(tmp_path):
    films(tmp_path, ("a", "7", "1"), ("b", "8", "1"), ("c", "9", "1"))
    write(tmp_path, "more.csv", [{"who": "7", "side": "left"}])
    items = list(read(config(join=[{"file": "more.csv", "on": ["who"]}], report="{side}"), tmp_path))
    assert LeftOut("row without a partner in more.csv", 2) in items


@pytest.mark.parametrize("path", ["images\\a.png", ".\\images\\a.png", "images/../images\\a.png"])
def test_paths_of_windows_are_read_or_refused(tmp_path, path):
    films(tmp_path, ("a", "7", "1"))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(PNG)
    write(tmp_path, "t.csv", [{"image": path}])
    (item,) = read(config(), tmp_path)
    if ".." in path:
        assert isinstance(item, BadSample) and "leads out of the root" in item.reason
    else:
        assert isinstance(item, RawSample) and item.files["0"] == tmp_path / "images" / "a.png"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("C:\\data\\study\\images\\a.png", "the last 2 parts of its path are a file under the root"),
        (
            "\\\\server\\share\\a.png",
            "a drive or a server of Windows; the last part of its path is a file under the root",
        ),
        ("D:\\nowhere\\x.png", "expected a path relative to the root"),
        ("pictures\\images\\a.png", "backslashes, which were read as /; the last 2 parts"),
    ],
)
def test_a_path_of_windows_that_leads_nowhere_says_where_its_file_would_lie(tmp_path, path, why):
    films(tmp_path, ("a", "7", "1"))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(PNG)
    write(tmp_path, "t.csv", [{"image": path}])
    (item,) = read(config(), tmp_path)
    assert isinstance(item, BadSample) and why in item.reason and "study" not in item.reason


def test_films_without_an_earlier_one_can_be_left_out(tmp_path):
    films(tmp_path, ("a", "7", "1"), ("b", "7", "2"))
    items = list(read(config(**{**PAIRS, "prior": {**PAIRS["prior"], "needed": True}}), tmp_path))
    assert [type(item) for item in items] == [LeftOut, RawSample] and items[0] == LeftOut(
        "no earlier study of the patient", 1
    )


def test_a_card_with_a_prior_names_its_samples():
    with pytest.raises(ValueError, match="expected `key`"):
        config(prior=PAIRS["prior"])


def test_a_row_that_is_left_out_is_nobodys_prior(tmp_path):
    films(tmp_path, ("a", "7", "1"), ("b", "7", "2"), ("c", "7", "3"))
    assert pairs(tmp_path, where={"note": ["note a", "note c"]}) == {"a": ["a"], "c": ["a", "c"]}


# --- several files -----------------------------------------------------------------------------------


def test_the_views_of_a_study_are_its_media(tmp_path):
    films(tmp_path, ("a", "7", "1"), ("b", "7", "2"), ("c", "8", "1"))
    raws = good(tmp_path, key="{who}", media=[{"file": "{image}", "kind": "film", "many": True}], report="{note}")
    assert [[path.stem for path in raw.files.values()] for raw in raws] == [["a", "b"], ["c"]]
    assert raws[0].sample.report == "note a\nnote b" and [m.member for m in raws[0].sample.media] == ["0", "1"]


def test_each_split_can_have_its_table(tmp_path):
    films(tmp_path, ("a", "7", "1"), ("b", "7", "2"))
    write(tmp_path, "other.csv", [{"image": "b.png", "note": "x"}])
    (tmp_path / "c.png").write_bytes(PNG)
    write(tmp_path, "one.csv", [{"image": "a.png", "note": "y"}, {"image": "c.png", "note": "z"}])
    raws = good(tmp_path, file={"train": "one.csv", "test": "other.csv"}, report="{note}")
    assert [(raw.sample.key, raw.sample.split, raw.where) for raw in raws] == [
        ("a.png", "train", "line 2 of one.csv"),
        ("c.png", "train", "line 3 of one.csv"),
        ("b.png", "test", "line 2 of other.csv"),
    ]


def test_an_image_in_the_tables_of_two_splits_is_bad(tmp_path):
    films(tmp_path, ("a", "7", "1"))
    (bad,) = read(config(file={"train": "t.csv", "val": "t.csv"}), tmp_path)
    assert isinstance(bad, BadSample) and "differ in split" in bad.reason


def test_a_json_file_can_hold_a_list_for_each_split(tmp_path):
    films(tmp_path, ("a", "7", "1"), ("b", "7", "2"))
    (tmp_path / "all.json").write_text(json.dumps({"train": [{"image": "a.png"}], "validation": [{"image": "b.png"}]}))
    raws = good(tmp_path, file={"train": "all.json#train", "val": "all.json#validation"})
    assert [(raw.sample.split, raw.where) for raw in raws] == [
        ("train", "record 1 of all.json#train"),
        ("val", "record 1 of all.json#validation"),
    ]
    with pytest.raises(DataError, match="expected an object with a list under 'valid', found 2 others"):
        good(tmp_path, file="all.json#valid")


def test_a_count_is_a_whole_number_and_a_long_answer_a_report(tmp_path):
    films(tmp_path, ("a", "7", "1"), ("b", "7", "many"))
    asked = [
        {"text": "How many?", "answer": "{day}", "task": "count", "template": "n"},
        {"text": "Describe.", "answer": "{note}", "task": "report"},
    ]
    items = list(read(config(questions=asked), tmp_path))
    assert [[q.truth for q in item.sample.questions] for item in items if isinstance(item, RawSample)] == [
        [make_truth("count", "1", count=1), make_truth("report", "note a")], [make_truth("report", "note b")],
    ]  # fmt: skip
    assert LeftOut("no text or no answer for the question n", 1) in items
