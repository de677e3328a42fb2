"""Records of strangers: a field of the wrong type, in a sample or in an index, is one message that names its place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.io.opening import open_shards
from medvlm.io.shard_index import index_path, parse_index
from medvlm.io.shards import ShardWriter
from tests.archive.made_layouts import film
from tests.damage import change, write_sample


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "shards"
    questions = (
        Question("How many?", make_truth("count", count=1, boxes=((1, 2, 3, 4),), label="mark"), "count"),
        Question("Where?", make_truth("boxes", boxes=((1, 2, 3, 4),), label="mark"), "boxes"),
        Question("Any?", make_truth("choice", "yes", choices=("yes", "no")), "any"),
        Question("Which?", make_truth("labels", classes=("a", "b"), labels=(True, False)), "which"),
    )
    medium = Medium("film", "0.png", (6, 8), (0.5, 0.5))
    with ShardWriter(folder, "train") as writer:
        for number in range(3):
            sample = Sample(
                f"{number:014x}aa", "x", "train", (medium,), "Text.", "c", questions, "p", {"site": f"s{number}"}
            )
            writer.write(sample, {"0.png": film(number)})
    return folder


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "shards"))


RECORDS: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "the key is a number": (("key",), 3, "key is a number, expected text"),
    "the split is a list": (("split",), ["train"], "split is a list"),
    "the report is an object": (("report",), {"a": 1}, "report is keys and values"),
    "the concept is nothing": (("concept",), None, "concept is nothing"),
    "the patient is a number": (("patient",), 7, "patient is a number"),
    "groups are a list": (("groups",), ["a"], "groups is a list"),
    "a group is a number": (("groups", "site"), 1, "groups.site is a number"),
    "media are text": (("media",), "0.png", "media is text"),
    "a medium is text": (("media", 0), "0.png", "media.0 is text"),
    "a kind is nothing": (("media", 0, "kind"), None, "media.0.kind is nothing"),
    "a size is text": (("media", 0, "size"), "6x8", "media.0.size is text"),
    "a size holds text": (("media", 0, "size", 1), "8", "media.0.size.1 is text"),
    "a size is huge": (("media", 0, "size", 0), 10**30, "media.0.size.0 is a number out of range"),
    "a size is a fraction": (("media", 0, "size", 0), 2.5, "media.0.size.0 is a fraction"),
    "a spacing is no number": (("media", 0, "spacing_mm"), ["a", "b"], "media.0.spacing_mm.0 is text"),
    "a spacing is infinite": (("media", 0, "spacing_mm"), [float("inf"), 1], "media.0.spacing_mm.0 is a number out of"),
    "a unit is unknown": (("media", 0, "unit"), "PET", "media.0.unit is text, expected display or HU or raw"),
    "an affine is flat": (("media", 0, "affine"), [1, 2, 3], "media.0.affine.0 is a number, expected a list"),
    "questions are an object": (("questions",), {"a": 1}, "questions is keys and values"),
    "a question is text": (("questions", 0), "How many?", "questions.0 is text"),
    "a question's text is a list": (("questions", 0, "text"), ["How"], "questions.0.text is a list"),
    "a template is nothing": (("questions", 1, "template"), None, "questions.1.template is nothing"),
    "a truth is text": (("questions", 1, "truth"), "yes", "questions.1.truth is text"),
    "a task is a number": (("questions", 1, "truth", "task"), 3, "truth.task is a number"),
    "an answer is a number": (("questions", 2, "truth", "answer"), 3, "truth.answer is a number"),
    "a count is text": (("questions", 0, "truth", "count"), "1", "truth.count is text"),
    "a count is true": (("questions", 0, "truth", "count"), True, "truth.count is true or false"),
    "boxes are text": (("questions", 1, "truth", "boxes"), "1 2 3 4", "truth.boxes is text"),
    "a box is a number": (("questions", 1, "truth", "boxes"), [1, 2, 3, 4], "truth.boxes.0 is a number"),
    "a box has three numbers": (("questions", 1, "truth", "boxes"), [[1, 2, 3]], "truth.boxes.0 has 3 entries"),
    "a box holds text": (("questions", 1, "truth", "boxes", 0, 2), "3", "truth.boxes.0.2 is text"),
    "a box is not finite": (("questions", 1, "truth", "boxes", 0, 2), float("nan"), "truth.boxes.0.2 is a number out"),
    "a box is huge": (("questions", 0, "truth", "boxes", 0, 0), 1e300, "truth.boxes.0.0 is a number out of range"),
    "a box nests": (("questions", 0, "truth", "boxes", 0, 0), [[1]], "truth.boxes.0.0 is a list"),
    "choices are a word": (("questions", 2, "truth", "choices"), "yes", "truth.choices is text"),
    "a choice is a number": (("questions", 2, "truth", "choices"), ["yes", 0], "truth.choices.1 is a number"),
    "a label is text": (("questions", 3, "truth", "labels"), ["true", False], "truth.labels.0 is text"),
    "the record is a list": ((), ["key"], "it is a list"),
}


@pytest.mark.parametrize("is_indexed", [True, False], ids=["with an index that fits", "without an index"])
@pytest.mark.parametrize("kind", RECORDS)
def test_a_field_of_the_wrong_type_is_named(kind: str, is_indexed: bool, copy: Path) -> None:
    place, value, why = RECORDS[kind]

    def damage(record: Any) -> Any:
        return change(record, place, lambda inner, step: inner.__setitem__(step, value)) if place else value

    tar = copy / "train-000000.tar"
    name = write_sample(tar, 1, damage, is_indexed)
    with pytest.raises(DataError) as refused:
        open_shards(copy).read("train", 1)
    said = str(refused.value)
    assert "train-000000.tar" in said and name in said and why in said, said


@pytest.mark.parametrize("other", [{"key": "f" * 16}, {"key": ""}, {"split": "test"}])
def test_another_key_or_split_than_the_index_says_is_refused(other: dict[str, str], copy: Path) -> None:
    write_sample(copy / "train-000000.tar", 0, lambda record: {**record, **other}, True)
    with pytest.raises(DataError, match=r"another key|another split"):
        open_shards(copy).read("train", 0)


def set_column(name: str, act: Callable[[list[Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda record: record.__setitem__(name, act(record[name]))


INDEXES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a code is text": (set_column("split_N", lambda c: ["0", *c[1:]]), "split_N has what is not a whole number"),
    "a code is a fraction": (set_column("media_N", lambda c: [0.5, *c[1:]]), "media_N has what is not a whole number"),
    "a code is negative": (set_column("member_M", lambda c: [-1, *c[1:]]), "member_M has what is not a whole number"),
    "a code is huge": (set_column("split_N", lambda c: [70_000, *c[1:]]), "split_N has what is not a whole number"),
    "an offset is huge": (set_column("offset_M", lambda c: [2**63, *c[1:]]), "offset_M has what is not a whole"),
    "an offset overflows": (set_column("offset_M", lambda c: [2**63 - 1, *c[1:]]), "a member is outside the tar"),
    "a size is the whole tar": (set_column("size_M", lambda c: [9_000] * len(c)), "a member is outside the tar"),
    "a column is text": (set_column("size_M", lambda c: "1"), "size_M is text, expected a list"),
    "a column is an object": (set_column("crc_M", lambda c: {"a": 1}), "crc_M is keys and values"),
    "a column nests": (set_column("crc_M", lambda c: [[each] for each in c]), "crc_M is not a list of numbers"),
    "a column is ragged": (set_column("tasks_NK", lambda c: [[1], [1, 2], []]), "ValueError"),
    "a column is short": (set_column("crc_M", lambda c: c[1:]), "its columns have different lengths"),
    "a report is 2": (set_column("report_N", lambda c: [2, *c[1:]]), "report_N has what is not a whole number"),
    "no first": (set_column("first_N1", lambda c: []), "its columns have different lengths"),
    "a sample without members": (set_column("first_N1", lambda c: [0, 0, *c[2:]]), "a sample has no members"),
    "a member twice": (set_column("member_M", lambda c: [0] * len(c)), "a sample has a member twice"),
    "a key twice": (set_column("keys_N", lambda c: [c[0], c[0], c[2]]), "keys_N has a key twice"),
    "a key is a number": (set_column("keys_N", lambda c: [1, *c[1:]]), "keys_N.0 is a number"),
    "a key with a null": (set_column("keys_N", lambda c: ["a\0", *c[1:]]), "one that ends in a null"),
    "a key with half a letter": (set_column("keys_N", lambda c: ["\ud800", *c[1:]]), "UnicodeEncodeError"),
    "splits are text": (set_column("splits", lambda c: "train"), "splits is text"),
    "a split twice": (set_column("splits", lambda c: ["train", "train"]), "is listed twice"),
    "a split is a number": (set_column("splits", lambda c: [1]), "splits.0 is a number"),
    "media are flat": (set_column("media", lambda c: ["film"]), "media.0 is text, expected a list"),
    "members are an object": (set_column("members", lambda c: {"a": 1}), "members is keys and values"),
    "tasks are a number": (set_column("tasks", lambda c: 3), "tasks is a number"),
    "groups are a list": (set_column("groups", lambda c: [c]), "groups is a list"),
    "a group has no values": (set_column("groups", lambda c: {"site": [[], [0, 0, 0]]}), "a group has no name"),
    "a group has text for codes": (set_column("groups", lambda c: {"site": [["a"], ["0"]]}), "groups has what is not"),
    "a group is short": (set_column("groups", lambda c: {"site": [["a"]]}), "groups.site has 1 entries"),
    "what was left out is a list": (lambda record: record.update(left_out=[1]), "left_out is a list"),
    "its length is text": (lambda record: record.update(bytes="10240"), "bytes is text"),
    "its length is huge": (lambda record: record.update(bytes=10**30), "bytes is a number out of range"),
    "its hash is a number": (lambda record: record.update(sha256=1), "sha256 is a number"),
    "its version is text": (lambda record: record.update(version="2"), "its version is not known"),
    "its version is 0": (lambda record: record.update(version=0), "its version is not known"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_that_does_not_fit_is_refused_with_its_column(kind: str, shards: Path) -> None:
    act, why = INDEXES[kind]
    record = json.loads(index_path(shards / "train-000000.tar").read_text())
    act(record)
    with pytest.raises(DataError) as refused:
        parse_index(json.dumps(record).encode(), "x.tar.index.json")
    said = str(refused.value)
    assert said.startswith("x.tar.index.json: a damaged index (") and why in said, said
    assert "delete it, and it is built again when the tar is opened" in said


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '"index"', "[" * 100_000, "{}"])
def test_what_is_no_index_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="a damaged index"):
        parse_index(text.encode(), "x.tar.index.json")
