import csv
import json
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from medvlm.archive.readers.table import Config, count, read
from medvlm.core.contracts import BadSample, Deferred, LeftOut, RawSample
from medvlm.core.document import parse
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.problems import validate
from medvlm.core.sample import Question, Sample, make_truth
from medvlm.io.images import encode_png

ROWS = [
    {"image": "a.png", "who": "7", "note": "Clear.", "q": "Is it clear?", "a": " Yes ", "type": "PRES"},
    {"image": "b.png", "who": "8", "note": "todo", "q": "How many?", "a": "4", "type": "COUNT"},
    {"image": "a.png", "who": "7", "note": "Clear.", "q": "Which side?", "a": "Left", "type": "POS"},
]
QUESTION = {"text": "{q}", "answer": "{a}", "template": "{type}", "choices": ["Yes", "No"], "lower": True}


def config(**settings: Any) -> Config:
    return Config.model_validate(
        {"kind": "table", "file": "t.csv", "media": [{"file": "{image}", "kind": "film"}], **settings}
    )


def write_csv(root: Path, rows: list[dict[str, str]], delimiter: str = ",", name: str = "t.csv") -> None:
    for image in ("a.png", "b.png"):
        (root / image).write_bytes(encode_png(np.zeros((2, 3), np.uint8)))
    with (root / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def samples(items: Iterable[Any]) -> list[RawSample]:
    return [item for item in items if isinstance(item, RawSample)]


def test_rows_of_one_image_are_one_sample_with_several_questions(tmp_path):
    write_csv(tmp_path, ROWS)
    card = config(questions=[QUESTION], patient="{who}")
    a, b = samples(read(card, tmp_path))
    assert count(card, tmp_path) == 2
    assert (a.sample.key, a.sample.patient, a.files) == ("a.png", "7", {"0": tmp_path / "a.png"})
    assert [(q.text, q.template) for q in a.sample.questions] == [("Is it clear?", "pres"), ("Which side?", "pos")]
    assert a.where == "line 2, 4 of t.csv" and b.where == "line 3 of t.csv"


def test_a_question_about_the_image_is_asked_once_unless_its_rows_say_different_things(tmp_path):
    write_csv(tmp_path, ROWS)
    for column, expected in (("who", ["7"]), ("type", ["PRES", "POS"])):
        asked = {"text": "Which?", "answer": f"{{{column}}}", "template": "which"}
        (a, _), (twice, _) = (
            samples(read(config(questions=[{**asked, **more}]), tmp_path)) for more in ({"once": True}, {})
        )
        assert [question.truth.answer for question in a.sample.questions] == expected
        assert len(twice.sample.questions) == 2


def test_a_sample_says_its_groups_and_its_rows_agree_on_them(tmp_path):
    write_csv(tmp_path, ROWS)
    a, b = samples(read(config(groups={"reader": "{who}", "note": "{note}"}, missing=["todo"]), tmp_path))
    assert (a.sample.groups, b.sample.groups) == ({"reader": "7", "note": "Clear."}, {"reader": "8"})
    bad = [x for x in read(config(groups={"kind": "{type}"}), tmp_path) if isinstance(x, BadSample)]
    assert [x.reason for x in bad] == ["its rows differ in kind; expected one value per key"]


def test_an_answer_among_the_choices_is_a_choice_and_any_other_is_open(tmp_path):
    write_csv(tmp_path, ROWS)
    truths = [q.truth for raw in samples(read(config(questions=[QUESTION]), tmp_path)) for q in raw.sample.questions]
    assert truths == [
        make_truth("choice", "yes", choices=("yes", "no")),
        make_truth("open", "left"),
        make_truth("open", "4"),
    ]


def test_steps_come_from_columns_in_the_order_of_the_card(tmp_path):
    write_csv(tmp_path, [{**row, "first": "" if i else "An X-ray", "last": "Dark."} for i, row in enumerate(ROWS)])
    card = config(questions=[{**QUESTION, "steps": {"modality": "{first}", "finding": "{last}"}}])
    a, _ = samples(read(card, tmp_path))
    steps = [question.steps for question in a.sample.questions]
    assert steps == [{"modality": "An X-ray", "finding": "Dark."}, {"finding": "Dark."}]
    assert Sample.from_json(json.loads(json.dumps(a.sample.to_json()))).questions[0].steps == steps[0]
    plain = samples(read(config(questions=[QUESTION]), tmp_path))[0].sample
    assert "steps" not in json.dumps(plain.to_json())  # shards of cards without steps stay the same


def test_of_several_lists_of_choices_a_question_offers_the_one_with_its_answer(tmp_path):
    write_csv(tmp_path, ROWS)
    question = {**QUESTION, "choices": [], "choice_lists": [["Yes", "No"], ["left", "right"]]}
    truths = [q.truth for raw in samples(read(config(questions=[question]), tmp_path)) for q in raw.sample.questions]
    assert truths == [
        make_truth("choice", "yes", choices=("yes", "no")),
        make_truth("choice", "left", choices=("left", "right")),
        make_truth("open", "4"),
    ]


OPTIONS = [
    {"image": "a.png", "q": "What is it?", "a": "Stone", "A": "Cyst", "B": "Stone", "C": "", "D": "Scar"},
    {"image": "b.png", "q": "And this?", "a": "b", "A": "Cyst", "B": "Stone", "C": "", "D": ""},
    {"image": "b.png", "q": "No option?", "a": "Tumour", "A": "Cyst", "B": "Stone", "C": "", "D": ""},
    {"image": "b.png", "q": "Alike?", "a": "Cyst", "A": "Cyst", "B": "the cyst", "C": "", "D": ""},
]


def read_options(root, options):
    write_csv(root, OPTIONS)
    found = list(read(config(questions=[{"text": "{q}\n{options}", "answer": "{a}", "options": options}]), root))
    left_out = {item.reason: item.count for item in found if isinstance(item, LeftOut)}
    return [q for raw in samples(found) for q in raw.sample.questions], left_out


def test_a_question_with_lettered_options_lists_those_that_its_row_has(tmp_path):
    """The answer of the archive is a letter or a text. One that is none of the options is left out."""
    (first, second, alike), left_out = read_options(tmp_path, {letter: "{" + letter + "}" for letter in "ABCD"})
    assert first == Question(
        "What is it?\nA: Cyst\nB: Stone\nD: Scar",
        make_truth("choice", "B", choices=("A", "B", "D"), options=("Cyst", "Stone", "Scar")),
        "question",
    )
    assert second.truth == make_truth("choice", "B", choices=("A", "B"), options=("Cyst", "Stone"))
    assert alike.truth.answer == "A" and left_out == {"no text or no answer for the question question": 1}


def test_a_question_with_plain_options_is_answered_by_the_text_of_one(tmp_path):
    """Options that read alike cannot be told apart without letters, and a letter is none of them."""
    (only,), left_out = read_options(tmp_path, ["{A}", "{B}", "{C}", "{D}"])
    assert only.text == "What is it?\nCyst\nStone\nScar"
    assert only.truth == make_truth("choice", "Stone", choices=("Cyst", "Stone", "Scar"))
    assert left_out == {"no text or no answer for the question question": 3}


@pytest.mark.parametrize(("names", "said"), [(["x/one.csv", "x/two.csv"], ""), (["y/one.csv"], "no file matches")])
def test_a_pattern_of_tables_reads_all_that_match(tmp_path, names, said):
    for name, row in zip(names, ROWS, strict=False):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_csv(tmp_path, [row], name=name)
    if said:
        with pytest.raises(DataError, match=said):
            list(read(config(file="x/*.csv"), tmp_path))
    else:
        assert [raw.where for raw in samples(read(config(file="x/*.csv"), tmp_path))] == [
            "line 2 of x/one.csv",
            "line 2 of x/two.csv",
        ]


def test_each_file_of_a_list_is_a_medium(tmp_path):
    write_csv(tmp_path, ROWS)
    (tmp_path / "t.json").write_text(json.dumps([{"id": "1", "files": ["b.png", "a.png"]}, {"id": "2", "files": []}]))
    media = [{"file": "{files}", "kind": "film", "each": "files"}]
    both, none = samples(read(config(file="t.json", key="{id}", media=media), tmp_path))
    assert list(both.files.values()) == [tmp_path / "b.png", tmp_path / "a.png"] and not none.files


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"choice_lists": [["left", "right"]]}, "expected one of `choices`, `choice_lists` and `options`"),
        ({"options": ["{a}", "{b}"]}, "expected one of `choices`, `choice_lists` and `options`"),
        ({"choices": [], "choice_lists": [["yes", "no"], ["No", "some"]]}, "'no' is in several lists of choices"),
        ({"choices": [], "choice_lists": [["flu", "the flu"]]}, "read alike"),
    ],
)
def test_lists_of_choices_from_which_an_answer_could_not_be_told_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        config(questions=[{**QUESTION, **changes}])


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("open", make_truth("open", "4")),
        ("report", make_truth("report", "4")),
        ("count", make_truth("count", count=4)),
        ({"kind": "count", "label": "cyst"}, make_truth("count", count=4, label="cyst")),
        ({"kind": "choice", "choices": ["4", "5"]}, make_truth("choice", "4", choices=("4", "5"))),
        ("boxes", None),
        ({"kind": "choice", "choices": ["a", "b"]}, None),
    ],
    ids=str,
)
def test_a_question_names_the_task_that_makes_its_truth(tmp_path, task, expected):
    write_csv(tmp_path, ROWS)
    raws = samples(read(config(questions=[{"text": "{q}", "answer": "{a}", "task": task}]), tmp_path))
    asked = {raw.sample.key: [q.truth for q in raw.sample.questions] for raw in raws}
    assert asked["b.png"] == ([expected] if expected else []), "a text that says nothing to the task is left out"


def test_boxes_may_be_written_in_a_cell(tmp_path):
    cells = {"a.png": "[1, 0, 3, 2], [0, 0, 1, 1]", "b.png": "none"}
    write_csv(tmp_path, [{"image": image, "where": where} for image, where in cells.items()])
    asked = {"text": "Where?", "answer": "{where}", "task": {"kind": "boxes", "label": "cyst"}}
    a, b = samples(read(config(questions=[asked]), tmp_path))
    assert [q.truth for raw in (a, b) for q in raw.sample.questions] == [
        make_truth("boxes", boxes=((0, 0, 1, 1), (1, 0, 3, 2)), label="cyst"),
        make_truth("boxes", label="cyst"),
    ]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("cuont", "unknown kind of tasks 'cuont', did you mean 'count'"),
        ("choice", "task 'choice' needs settings; write {kind: choice, choices: ...}"),
        ({"kind": "choice", "choices": ["a"]}, "at least 2"),
    ],
    ids=str,
)
def test_a_task_that_cannot_be_made_is_refused_in_the_card(tmp_path, task, message):
    text = {"file": "t.csv", "media": [], "key": "{who}", "questions": [{"text": "?", "answer": "{a}", "task": task}]}
    with pytest.raises(RecipeError, match=re.escape(message)):
        validate(Config, parse(json.dumps({"kind": "table", **text}), "card.yaml"))


def test_every_text_is_a_template_and_is_missing_where_a_column_is(tmp_path):
    write_csv(tmp_path, ROWS)
    questions = [{"text": "What does patient {who} have?", "answer": "{note}", "template": "note"}]
    items = list(read(config(report="Note: {note}", questions=questions, missing=["todo"]), tmp_path))
    a, b = samples(items)
    assert (a.sample.report, b.sample.report) == ("Note: Clear.", "")
    assert [len(raw.sample.questions) for raw in (a, b)] == [2, 0]
    assert [x for x in items if isinstance(x, LeftOut)] == [LeftOut("no text or no answer for the question note", 1)]


def test_different_reports_of_one_image_become_its_lines(tmp_path):
    write_csv(tmp_path, ROWS)
    a, _ = samples(read(config(report="{q} {a}"), tmp_path))
    assert a.sample.report == "Is it clear? Yes\nWhich side? Left"


def test_one_of_several_wordings_is_chosen_by_the_key_alone(tmp_path):
    wordings = [f"Wording {i}?" for i in range(4)]
    rows = [{**ROWS[0], "image": "a.png", "id": str(i)} for i in range(400)]
    write_csv(tmp_path, rows)
    asked = [{"text": wordings, "answer": "{a}"}]
    found = {
        raw.sample.key: raw.sample.questions[0].text
        for raw in samples(read(config(key="{id}", questions=asked), tmp_path))
    }
    assert all(60 < list(found.values()).count(wording) < 140 for wording in wordings)
    write_csv(tmp_path, rows[::-1][:50])
    again = {
        raw.sample.key: raw.sample.questions[0].text
        for raw in samples(read(config(key="{id}", questions=asked), tmp_path))
    }
    assert again.items() <= found.items() and len(again) == 50


def test_rows_are_kept_by_value_and_values_are_renamed(tmp_path):
    write_csv(tmp_path, ROWS)
    items = list(read(config(where={"type": ["presence", "COUNT"]}, rename={"type": {"PRES": "presence"}}), tmp_path))
    assert [raw.sample.key for raw in samples(items)] == ["a.png", "b.png"]
    assert LeftOut("type is not presence or COUNT", 1) in items


def test_the_split_can_come_from_a_column(tmp_path):
    write_csv(tmp_path, ROWS)
    found = samples(read(config(split="{who}", rename={"who": {"7": "train", "8": "test"}}), tmp_path))
    assert [raw.sample.split for raw in found] == ["train", "test"]


def test_rows_without_an_image_are_samples_of_text_by_their_key(tmp_path):
    write_csv(tmp_path, ROWS)
    raw, *_ = samples(read(config(media=[], key="{q}", report="{note}"), tmp_path))
    assert (raw.sample.media, raw.files, raw.sample.report) == ((), {}, "Clear.")
    with pytest.raises(ValueError, match="expected `key`"):
        config(media=[])


def test_the_four_formats_hold_the_same(tmp_path):
    write_csv(tmp_path, ROWS)
    write_csv(tmp_path, ROWS, "\t", "t.tsv")
    (tmp_path / "t.json").write_text(json.dumps(ROWS))
    (tmp_path / "t.jsonl").write_text("\n\n".join(map(json.dumps, ROWS)) + "\n")
    (tmp_path / "bom.csv").write_text("\ufeff" + (tmp_path / "t.csv").read_text(), encoding="utf-8")
    (tmp_path / "t.table").write_text((tmp_path / "t.csv").read_text())
    first, *others = (
        [raw.sample for raw in samples(read(config(questions=[QUESTION], **settings), tmp_path))]
        for settings in (
            {},
            {"file": "t.tsv"},
            {"file": "t.json"},
            {"file": "t.jsonl"},
            {"file": "bom.csv"},
            {"file": "t.table", "format": "csv"},
        )
    )
    assert len(first) == 2 and all(other == first for other in others)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4, "4"),
        (4.0, "4"),
        (0.5, "0.5"),
        (True, "true"),
        (None, ""),
        (float("nan"), ""),
        (["a", 1, None], "a, 1"),
        ("  x ", "x"),
    ],
)
def test_values_of_json_become_text(tmp_path, value, text):
    write_csv(tmp_path, ROWS)
    (tmp_path / "t.json").write_text(json.dumps([{"image": "a.png", "note": value}]))
    (raw,) = samples(read(config(file="t.json", report="{note}"), tmp_path))
    assert raw.sample.report == text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": "c.png"}, "its file is not there"),
        ({"image": "../t.png"}, "leads out of the root"),
        ({"image": "/etc/hostname"}, "leads out of the root"),
        ({"image": ""}, "no value for {image}"),
        ({"note": {"a": 1}}, "note holds a nested record"),
        ({"note": [[1]]}, "note holds a nested record"),
    ],
)
def test_a_bad_row_is_one_bad_sample_and_the_rest_is_read(tmp_path, change, reason):
    write_csv(tmp_path, ROWS)
    (tmp_path / "t.json").write_text(json.dumps([{**ROWS[0], **change}, ROWS[1]]))
    items = list(read(config(file="t.json", report="{note}"), tmp_path))
    (bad,) = (item for item in items if isinstance(item, BadSample))
    assert reason in bad.reason and bad.where == "record 1 of t.json"
    assert "c.png" not in bad.reason and "hostname" not in bad.reason, "a name may identify a patient"
    assert [raw.sample.key for raw in samples(items)] == ["b.png"]
    assert count(config(file="t.json", report="{note}"), tmp_path) == 2


def test_a_path_may_be_absolute_within_the_root(tmp_path):
    write_csv(tmp_path, [{**ROWS[0], "image": str(tmp_path / "a.png")}])
    (raw,) = samples(read(config(), tmp_path))
    assert raw.files == {"0": tmp_path / "a.png"}


def test_rows_of_one_image_that_name_two_patients_are_bad(tmp_path):
    write_csv(tmp_path, [ROWS[0], {**ROWS[2], "who": "9"}])
    (bad,) = read(config(patient="{who}"), tmp_path)
    assert isinstance(bad, BadSample) and "differ in patient" in bad.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,nota\na.png,x\n", r"no column 'note', did you mean 'nota'\? \(2 others; expected the names"),
        ("", r"no column 'image' \(no rows"),
        ("image,image\na.png,x\n", "column 2 has the same name as an earlier one"),
        ('image,note\na.png,"x\n', r"t\.csv:2: unexpected end of data"),
    ],
)
def test_a_table_that_is_not_what_the_card_says_is_refused(tmp_path, text, reason):
    write_csv(tmp_path, ROWS)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=reason):
        list(read(config(report="{note}"), tmp_path))


@pytest.mark.parametrize("file", [{}, "", {"train": ""}, {"train": "t.csv", "test": ""}])
def test_a_card_without_the_name_of_a_table_is_refused(file):
    with pytest.raises(ValidationError, match="at least 1"):
        config(file=file)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("t.csv", b"image,note\na.png,\xe9t\xe9\n", "not UTF-8"),
        ("t.json", b'{"image": "a.png"}', "expected a list of records, found a dict"),
        ("t.json", b'[{"image": ', "not JSON"),
        ("t.json", b"[" * 100_000, "nested too deeply"),
        ("t.jsonl", b'{"image": "a.png"}\nx\n', r"t\.jsonl:2: not JSON"),
        ("t.xlsx", b"", "cannot tell the format"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=reason):
        list(read(config(file=name), tmp_path))


def test_a_row_with_more_values_than_columns_is_bad(tmp_path):
    write_csv(tmp_path, ROWS)
    (tmp_path / "t.csv").write_text("image\na.png\nb.png,x\n")
    items = list(read(config(), tmp_path))
    assert [type(item) for item in items] == [BadSample, RawSample]


# --- files that are no pictures --------------------------------------------------------------------------


def one_file(root: Path, name: str, **medium: Any) -> tuple[list[Any], list[BadSample]]:
    (root / "t.csv").write_text(f"image\n{name}\n")
    card = config(media=[{"file": "{image}", "kind": "it", **medium}])
    items = list(read(card, root))
    return [item for item in items if isinstance(item, RawSample | Deferred)], [
        item for item in items if isinstance(item, BadSample)
    ]


def test_other_kinds_of_files_are_handed_over_with_the_cards_options(tmp_path):
    """What stands in RawSample.files is called later, in another process: it must pickle, and give what the file
    holds."""
    nib = pytest.importorskip("nibabel")
    tifffile = pytest.importorskip("tifffile")
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    values[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(values, np.diag([-1, -1, 1, 1])), tmp_path / "a.nii.gz")
    (raw,), bad = one_file(tmp_path, "a.nii.gz", unit="HU", nifti={"length": "mm", "nan": 7, "hu": "as_is"})
    found = pickle.loads(pickle.dumps(raw.files["0"]))()
    expected = np.where(np.isnan(values), 7, values).transpose(2, 1, 0)
    assert not bad and np.array_equal(found.pixels, expected)
    assert (found.unit, found.spacing_mm) == ("HU", (1, 1, 1))
    pages = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    tifffile.imwrite(tmp_path / "b.tif", pages, metadata=None, photometric="minisblack")
    (raw,), _ = one_file(tmp_path, "b.tif", tiff={"page": "all"}, unit="raw")
    assert np.array_equal(raw.files["0"]().pixels, pages)


def test_each_tile_of_a_slide_is_a_medium(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    slide = np.full((128, 192, 3), 240, np.uint8)
    slide[:64, 64:] = (180, 90, 160)
    tifffile.imwrite(
        tmp_path / "s.svs", slide, photometric="rgb", tile=(64, 64), metadata=None, description="Aperio\n|MPP = 0.5"
    )
    (later,), _ = one_file(tmp_path, "s.svs", slide={"mpp": 0.5, "tile_px": 64})
    raw = pickle.loads(pickle.dumps(later)).make()
    assert [medium.member for medium in raw.sample.media] == ["0", "1"] == list(raw.files)
    assert all((pickle.loads(pickle.dumps(call))().pixels == (180, 90, 160)).all() for call in raw.files.values())
    (raw,), _ = one_file(tmp_path, "s.svs", slide={"mpp": 1})
    assert raw.files["0"]().pixels.shape == (64, 96, 3)
    tifffile.imwrite(
        tmp_path / "empty.svs",
        slide[64:],
        photometric="rgb",
        tile=(64, 64),
        metadata=None,
        description="Aperio\n|MPP = 0.5",
    )
    (later,), _ = one_file(tmp_path, "empty.svs", slide={"mpp": 0.5, "tile_px": 64})
    with pytest.raises(DataError, match="no tile of the slide holds 10% tissue"):
        later.make()


@pytest.mark.parametrize(("name", "remedy"), [("x.svs", "slide: {mpp: 8}"), ("x.MP4", "video: {fps: 1}")])
def test_a_kind_that_needs_an_option_is_refused_without_it(name, remedy, tmp_path):
    (tmp_path / name).write_bytes(b"")
    _, (bad,) = one_file(tmp_path, name)
    assert remedy in bad.reason


def test_a_video_is_called_with_its_options_and_a_dicom_file_is_read(tmp_path):
    from medvlm.io.dicom.image import load_file
    from medvlm.io.video import VideoOptions, load_video

    for name in ("v.webm", "d.dcm"):
        (tmp_path / name).write_bytes(b"")
    (raw,), _ = one_file(tmp_path, "v.webm", video={"frames": 4})
    assert (raw.files["0"].func, raw.files["0"].args) == (load_video, (tmp_path / "v.webm", VideoOptions(frames=4)))
    (raw,), _ = one_file(tmp_path, "d.dcm")
    assert (raw.files["0"].func, raw.files["0"].args) == (load_file, (tmp_path / "d.dcm",))


BOXES = [
    {"image": "a.png", "what": "cyst", "l": "0", "t": "0.5", "r": "2", "b": "2"},
    {"image": "a.png", "what": "cyst", "l": "1", "t": "0", "r": "3", "b": "1"},
    {"image": "b.png", "what": "none", "l": "", "t": "", "r": "", "b": ""},
]
OBJECTS = {
    "named": "what",
    "corners": ["l", "t", "r", "b"],
    "classes": {"cyst": {"one": "cyst", "many": "cysts"}},
    "count": {"wordings": ["How many {many}?"]},
}


def asked(raw: RawSample) -> list[tuple[Question, Any]]:
    return [(question, question.truth) for question in raw.sample.questions]


def test_a_row_may_be_an_object_with_its_box(tmp_path):
    write_csv(tmp_path, BOXES)
    a, b = samples(read(config(objects=OBJECTS), tmp_path))
    assert [(q.text, truth.count, truth.boxes) for q, truth in asked(a)] == [
        ("How many cysts?", 2, ((0, 0.5, 2, 2), (1, 0, 3, 1)))
    ]
    assert [truth.count for _, truth in asked(b)] == [0]


@pytest.mark.parametrize("left", ["x", "inf", ""])
def test_a_box_that_is_not_four_numbers_makes_the_sample_bad(left, tmp_path):
    write_csv(tmp_path, [{**BOXES[0], "l": left}, BOXES[2]])
    bad, good = read(config(objects=OBJECTS), tmp_path)
    assert (
        isinstance(bad, BadSample) and "l, t, r, b are not four numbers" in bad.reason and isinstance(good, RawSample)
    )


def test_the_split_of_the_table_may_stand_in_the_path(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").write_bytes(encode_png(np.zeros((2, 3), np.uint8)))
        (tmp_path / f"{split}.csv").write_text("image\na.png\n")
    card = config(
        file={"train": "train.csv", "test": "test.csv"},
        key="{image}{split of the file}",
        media=[{"file": "{split of the file}/{image}", "kind": "film"}],
    )
    assert [raw.files["0"] for raw in samples(read(card, tmp_path))] == [
        tmp_path / "train" / "a.png",
        tmp_path / "test" / "a.png",
    ]


def test_labels_of_several_columns_may_be_missing(tmp_path):
    table = "id,edema,mass\n1,1,0\n2,,0.5\n3,no,-1\n4,yes,\n"
    (tmp_path / "t.csv").write_text(table)
    asked = {"text": "Which?", "labels": {"columns": {"edema": "{edema}", "mass": "{mass}"}}, "template": "findings"}
    config = Config.model_validate({"kind": "table", "file": "t.csv", "key": "{id}", "questions": [asked]})
    found: dict[str, Any] = {
        raw.sample.key: raw.sample.questions for raw in read(config, tmp_path) if isinstance(raw, RawSample)
    }
    assert [[q.truth.labels for q in questions] for questions in found.values()] == [
        [(True, False)],
        [],
        [(False, None)],
        [(True, None)],
    ]
    assert not found["1"][0].truth.exclusive


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, (True, False, None, None)),
        ({"yes": ["1", "-1"]}, (True, False, True, None)),
        ({"no": ["0", "-1"]}, (True, False, False, None)),
        ({"no": ["0", ""]}, (True, False, None, False)),
        ({"uncertain": ["-1"]}, (True, False, None, None)),
    ],
    ids=["ignore uncertain ones", "uncertain is yes", "uncertain is no", "not mentioned is no", "kept apart"],
)
def test_the_card_says_what_an_uncertain_label_is(
    rule: dict[str, list[str]], expected: tuple[bool | None, ...], tmp_path: Path
) -> None:
    """CheXpert writes 1.0, 0.0 and -1.0, and nothing for what the report does not mention."""
    (tmp_path / "t.csv").write_text("id,a,b,c,d\n1,1.0,0.0,-1.0,\n")
    columns = {name: f"{{{name}}}" for name in "abcd"}
    asked = {"text": "Which?", "labels": {"columns": columns, **rule}, "template": "findings"}
    config = Config.model_validate({"kind": "table", "file": "t.csv", "key": "{id}", "questions": [asked]})
    (raw,) = (raw for raw in read(config, tmp_path) if isinstance(raw, RawSample))
    (question,) = raw.sample.questions
    truth: Any = question.truth
    assert truth.labels == expected and truth.uncertain == (("c",) if "uncertain" in rule else ())


def test_a_column_lists_the_labels_that_are_there(tmp_path):
    """What is none of the classes is counted, and an empty cell says nothing."""
    (tmp_path / "t.csv").write_text("id,codes\n1,250.2; 8.0;999\n2,none\n3,\n4,777\n")
    asked = {"text": "Which?", "listed": {"value": "{codes}", "classes": ["8", "250.2"]}, "template": "codes"}
    config = Config.model_validate({"kind": "table", "file": "t.csv", "key": "{id}", "questions": [asked]})
    read_all = list(read(config, tmp_path))
    truths: list[Any] = [[q.truth for q in raw.sample.questions] for raw in samples(read_all)]
    assert [each[0].labels if each else None for each in truths] == [(True, True), (False, False), None, (False, False)]
    assert {t.task for each in truths for t in each} == {"labels"} and not any(t.exclusive for e in truths for t in e)
    why = "value listed for codes that is none of its classes"
    counted = [raw.left_out.get(why, 0) for raw in samples(read_all)]
    assert counted == [1, 0, 0, 1]


def test_listed_codes_are_compared_as_other_values_are(tmp_path):
    """A cell 250.0 is 250 from the start, so the class 250.0 is that too, within a list and alone."""
    (tmp_path / "t.csv").write_text("id,codes\n1,250.0\n2,250;401.0\n3,0.0\n")
    listed = {"value": "{codes}", "classes": ["250.0", "401"], "nothing": "0.0"}
    asked = {"text": "Which?", "listed": listed, "template": "codes"}
    config = Config.model_validate({"kind": "table", "file": "t.csv", "key": "{id}", "questions": [asked]})
    raws = samples(list(read(config, tmp_path)))
    labels: list[Any] = [raw.sample.questions[0].truth for raw in raws]
    assert [each.labels for each in labels] == [(True, False), (True, True), (False, False)]
    assert not any(raw.left_out for raw in raws)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ["a", "a"]}, "names 'a' twice"),
        ({"classes": ["250", "250.0"]}, "names '250.0' twice"),
        ({"classes": ["a; b"]}, "'a; b' is never listed.*separator"),
        ({"classes": ["a", "none"]}, "'none' is never listed"),
        ({"classes": ["a"], "separator": ""}, "`separator` is empty"),
    ],
)
def test_classes_that_cannot_be_listed_are_refused(settings, message):
    asked = {"text": "Which?", "listed": {"value": "{codes}", **settings}, "template": "codes"}
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"kind": "table", "file": "t.csv", "key": "{id}", "questions": [asked]})


@pytest.mark.parametrize("more", [{}, {"answer": "{a}", "labels": {"columns": {"x": "{a}"}}}])
def test_a_question_has_an_answer_or_labels(more):
    with pytest.raises(ValueError, match="expected one of `answer`, `labels` and `listed`"):
        Config.model_validate({"kind": "table", "file": "t.csv", "key": "{id}", "questions": [{"text": "?", **more}]})


@pytest.mark.parametrize(
    ("answer", "is_noticed"),
    [
        ("yes (probable)", True),
        ("Yes, small", True),
        ("not seen", True),
        ("left lung", False),
        ("yes", False),
        ("", False),
    ],
)
def test_an_answer_that_names_a_choice_in_other_words_is_counted(tmp_path, answer, is_noticed):
    """It is asked as an open question, beside which `yes` of other rows is a choice."""
    question = {"text": "Is it there?", "answer": "{a}", "choices": ["yes", "no"]}
    (tmp_path / "0.png").write_bytes(encode_png(np.zeros((4, 4), np.uint8)))
    (tmp_path / "t.csv").write_text(f'f,a\n0.png,"{answer}"\n')
    settings = {"kind": "table", "file": "t.csv", "media": [{"file": "{f}", "kind": "film"}], "questions": [question]}
    found = [each for each in read(Config.model_validate(settings), tmp_path) if isinstance(each, RawSample)]
    counted = [why for each in found for why in each.left_out if "names one of its choices in other words" in why]
    assert len(counted) == is_noticed
