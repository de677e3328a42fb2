"""Against files that pyarrow writes as `datasets` does: structs of {bytes, path}, features in the metadata, streams of
batches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.archive import arrow_files
from medvlm.archive.readers.hf_dataset import Config, count, read
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Question, make_truth
from medvlm.io.images import encode_png

pa = pytest.importorskip("pyarrow")
ipc = pytest.importorskip("pyarrow.ipc")
parquet = pytest.importorskip("pyarrow.parquet")

PNG = [encode_png(np.full((4, 5), value, np.uint8)) for value in range(5)]


def image(number: int) -> dict[str, Any]:
    return {"bytes": PNG[number], "path": f"{number}.png"}


def table(rows: list[dict[str, Any]], **features: Any) -> Any:
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.Table.from_pylist(rows).replace_schema_metadata(metadata)


ROWS = [
    {"image": image(0), "question": "Clear?", "answer": "Yes", "label": 1},
    {"image": image(1), "question": "Where?", "answer": "left", "label": 0},
    {"image": image(0), "question": "Which side?", "answer": "right", "label": 1},
    {"image": image(2), "question": "Clear?", "answer": "no", "label": -1},
]
LABEL = {"label": {"_type": "ClassLabel", "names": ["ill", "well"]}, "image": {"_type": "Image"}}
QUESTION = {"text": "{question}", "answer": "{answer}", "choices": ["yes", "no"], "lower": True}


def config(**settings: Any) -> Config:
    return Config.model_validate(
        {
            "kind": "hf_dataset",
            "file": "data",
            "media": [{"column": "image", "kind": "film"}],
            "questions": [QUESTION],
            **settings,
        }
    )


def written(
    root: Path,
    rows: list[dict[str, Any]] = ROWS,
    name: str = "data/train-00000-of-00001.parquet",
    features: dict[str, Any] = LABEL,
) -> Path:
    (root / name).parent.mkdir(exist_ok=True, parents=True)
    parquet.write_table(table(rows, **features), root / name, row_group_size=2)
    return root


def good(root: Path, **settings: Any) -> list[RawSample]:
    return [item for item in read(config(**settings), root) if isinstance(item, RawSample)]


def asked(raw: RawSample) -> list[tuple[Question, Any]]:
    return [(question, question.truth) for question in raw.sample.questions]


def same(a: list[RawSample], b: list[RawSample]) -> bool:
    return [(x.sample, x.files) for x in a] == [(x.sample, x.files) for x in b]


def test_rows_with_the_same_image_are_one_sample_with_several_questions(tmp_path):
    raws = good(written(tmp_path), concept="{label}")
    assert [raw.files for raw in raws] == [{"0": PNG[0]}, {"0": PNG[1]}, {"0": PNG[2]}]
    assert [(q.text, q.truth) for q in raws[0].sample.questions] == [
        ("Clear?", make_truth("choice", "yes", choices=("yes", "no"))), ("Which side?", make_truth("open", "right")),
    ]  # fmt: skip
    assert [raw.sample.concept for raw in raws] == ["well", "ill", ""], "the names of the classes; -1 is none"
    assert raws[0].where == "record 1, 3 of file 1 of data", "never by the name that a file has in the archive"
    assert count(config(), tmp_path) == 4


def test_a_key_can_be_a_column_and_then_its_rows_must_agree_on_the_image(tmp_path):
    written(tmp_path)
    items = list(read(config(key="{question}"), tmp_path))
    (bad,) = [item for item in items if isinstance(item, BadSample)]
    assert "differ in their images" in bad.reason and bad.where.startswith("record 1, 4 of")
    assert [item.sample.key for item in items if isinstance(item, RawSample)] == ["Where?", "Which side?"]


def test_parquet_in_one_file_or_several_and_arrow_hold_the_same(tmp_path):
    first = good(written(tmp_path))
    written(tmp_path, ROWS[:1], "two/a-0.parquet")
    written(tmp_path, ROWS[1:], "two/a-1.parquet")
    written(tmp_path, ROWS[1:], "two/b.parquet")
    assert same(first, good(tmp_path, file="two/a-*.parquet"))
    assert same(first, good(tmp_path, file="data/train-00000-of-00001.parquet"))
    for name, writer in (("stream", ipc.new_stream), ("file", ipc.new_file)):
        (tmp_path / name).mkdir()
        with writer(str(tmp_path / name / "x.arrow"), table(ROWS, **LABEL).schema) as out:
            out.write_table(table(ROWS, **LABEL), max_chunksize=3)
        assert same(first, good(tmp_path, file=name)), name


def test_a_long_batch_is_read_in_parts(tmp_path, monkeypatch):
    first = good(written(tmp_path))
    monkeypatch.setattr(arrow_files, "ROWS_AT_ONCE", 3)
    with ipc.new_stream(str(tmp_path / "x.arrow"), table(ROWS, **LABEL).schema) as out:
        out.write_table(table(ROWS, **LABEL))
    assert same(first, good(tmp_path, file="x.arrow")) and count(config(file="x.arrow"), tmp_path) == 4


def test_what_save_to_disk_wrote_is_read_by_its_state(tmp_path):
    """Other versions of the data lie beside it as cache-*.arrow."""
    folder = tmp_path / "saved"
    folder.mkdir()
    for name, rows in (
        ("data-00000-of-00002.arrow", ROWS[:2]),
        ("data-00001-of-00002.arrow", ROWS[2:]),
        ("cache-1.arrow", ROWS),
    ):
        with ipc.new_stream(str(folder / name), table(ROWS, **LABEL).schema) as out:
            out.write_table(table(rows, **LABEL))
    state = {
        "_data_files": [{"filename": "data-00000-of-00002.arrow"}, {"filename": "data-00001-of-00002.arrow"}],
        "_split": "train",
    }
    (folder / "state.json").write_text(json.dumps(state))
    assert same(good(written(tmp_path)), good(tmp_path, file="saved"))
    (folder / "state.json").write_text("{}")
    with pytest.raises(DataError, match="does not list the files"):
        good(tmp_path, file="saved")


def test_the_splits_of_a_saved_dictionary_have_to_be_named(tmp_path):
    written(tmp_path, ROWS[:1], "all/train/x.parquet")
    written(tmp_path, ROWS[1:2], "all/validation/x.parquet")
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    with pytest.raises(
        DataError, match=r"holds the splits train, validation; name them in reader\.file, e\.g\. \{train: all/train\}"
    ):
        good(tmp_path, file="all")
    raws = good(tmp_path, file={"train": "all/train", "val": "all/validation"})
    assert [(raw.sample.split, raw.files["0"]) for raw in raws] == [("train", PNG[0]), ("val", PNG[1])]


def test_an_image_may_be_bytes_a_list_or_a_file_beside(tmp_path):
    (tmp_path / "x.png").write_bytes(PNG[3])
    rows = [{"image": [image(0), {"bytes": None, "path": "x.png"}], "other": PNG[1], "question": "Q?", "answer": "a"}]
    written(tmp_path, rows)
    (raw,) = good(tmp_path, media=[{"column": "image", "kind": "film"}, {"column": "other", "kind": "film"}])
    assert raw.files == {"0": PNG[0], "1": tmp_path / "x.png", "2": PNG[1]}


@pytest.mark.parametrize(
    "value", [None, {"bytes": None, "path": None}, {"bytes": b"", "path": "x"}, {"bytes": None, "path": "../x.png"}]
)
def test_a_row_without_an_image_is_bad_and_the_rest_is_read(tmp_path, value):
    written(tmp_path, [{**ROWS[0], "image": value}, {**ROWS[2], "image": value}, ROWS[1]])
    items = list[Any](read(config(), tmp_path))
    assert [type(item) for item in items] == [BadSample, BadSample, RawSample]
    assert items[-1].files == {"0": PNG[1]}


def test_boxes_of_a_column_are_asked_about(tmp_path):
    classes = {"polyp": {"one": "polyp", "many": "polyps"}, "tool": {"one": "tool", "many": "tools"}}
    objects = {
        "places": "bbox",
        "named": "label",
        "classes": classes,
        "count": {"wordings": ["How many {many}?"]},
        "boxes": {"wordings": ["Where?"]},
    }
    rows: list[dict[str, Any]] = [
        {"image": image(0), "bbox": [[2, 1, 4, 3], [0, 0, 1, 1]], "label": "polyp", "question": "Q", "answer": "a"},
        {"image": image(0), "bbox": [[1, 1, 2, 2]], "label": "tool", "question": "Q", "answer": "a"},
        {"image": image(1), "bbox": [], "label": "polyp", "question": "Q", "answer": "a"},
        {"image": image(2), "bbox": [[1, 1, 2]], "label": "polyp", "question": "Q", "answer": "a"},
        {"image": image(3), "bbox": [[1, 1, 1, 2]], "label": "other", "question": "Q", "answer": "a"},
    ]
    items = list(read(config(objects=objects, questions=[]), written(tmp_path, rows, features={})))
    raws = [item for item in items if isinstance(item, RawSample)]
    assert [{q.template: (truth.answer, truth.boxes) for q, truth in asked(raw)} for raw in raws] == [
        {"count:polyp": ("2", ((0, 0, 1, 1), (2, 1, 4, 3))), "count:tool": ("1", ((1, 1, 2, 2),)),
         "boxes:polyp": ("{boxes}", ((0, 0, 1, 1), (2, 1, 4, 3))), "boxes:tool": ("{boxes}", ((1, 1, 2, 2),))},
        {"count:polyp": ("0", ()), "count:tool": ("0", ())},
        {"count:polyp": ("0", ()), "count:tool": ("0", ())},
    ]  # fmt: skip
    assert [item.reason for item in items if isinstance(item, BadSample)] == [
        "bbox holds a box that is not made of four numbers"
    ]
    assert LeftOut("object of a class that the card does not name", 1) in items
    raw, *_ = good(tmp_path, objects={**objects, "form": "xywh"}, questions=[])
    assert asked(raw)[0][1].boxes == ((0, 0, 1, 1), (2, 1, 6, 4))


def test_a_data_set_that_is_not_what_the_card_says_is_refused(tmp_path):
    written(tmp_path)
    for settings, reason in (
        ({"file": "elsewhere"}, r"elsewhere: no \.parquet or \.arrow files"),
        ({"media": [{"column": "img", "kind": "film"}]}, r"no column 'img'.* \(4 others\)"),
        ({"report": "{notes}"}, "no column 'notes'"),
    ):
        with pytest.raises(DataError, match=reason):
            good(tmp_path, **settings)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("keep", [0, 3, 40, -9])
def test_a_damaged_file_is_refused(tmp_path, suffix, keep):
    whole = written(tmp_path) / "data" / "train-00000-of-00001.parquet"
    if suffix == "arrow":
        with ipc.new_stream(str(tmp_path / "x.arrow"), table(ROWS, **LABEL).schema) as out:
            out.write_table(table(ROWS, **LABEL))
        whole = tmp_path / "x.arrow"
    (tmp_path / f"cut.{suffix}").write_bytes(whole.read_bytes()[: keep if keep >= 0 else len(whole.read_bytes()) // 2])
    with pytest.raises(DataError, match=rf"cut\.{suffix}: (cannot be read|is damaged)"):
        good(tmp_path, file=f"cut.{suffix}")


def test_what_the_library_itself_writes_is_read(tmp_path):
    """Of 20 rows in three shards, in a dictionary of splits, filtered, and as parquet."""
    datasets = pytest.importorskip(
        "datasets", reason="the library is no dependency: pip install datasets to compare with it"
    )
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "answer": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    rows = {
        "image": [image(i // 4) for i in range(20)],
        "question": [f"Q{i}?" for i in range(20)],
        "answer": [i % 2 for i in range(20)],
    }
    whole = datasets.Dataset.from_dict(rows, features=features)
    whole.save_to_disk(str(tmp_path / "one"), num_shards=3)
    datasets.DatasetDict(train=whole.select(range(8)), validation=whole.select(range(8, 20))).save_to_disk(
        str(tmp_path / "two")
    )
    whole.filter(lambda question: question == "Q7?", input_columns="question").save_to_disk(str(tmp_path / "few"))
    whole.to_parquet(str(tmp_path / "all.parquet"))
    raws = good(tmp_path, file="one")
    assert [raw.files["0"] for raw in raws] == PNG and [q.truth.answer for q in raws[1].sample.questions] == [
        "no",
        "yes",
        "no",
        "yes",
    ]
    assert same(raws, good(tmp_path, file="all.parquet")) and count(config(file="one"), tmp_path) == 20
    splits = good(tmp_path, file={"train": "two/train", "val": "two/validation"})
    assert [raw.sample.split for raw in splits] == ["train", "train", "val", "val", "val"] and [
        raw.files for raw in splits
    ] == [raw.files for raw in raws]
    (few,) = good(tmp_path, file="few")
    assert [q.text for q in few.sample.questions] == ["Q7?"]
