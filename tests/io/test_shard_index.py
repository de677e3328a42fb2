"""Indexes name their tasks: indexes of version 1 are still read, and unknown tasks are allowed.

The shards of tests/fixtures/first_format were packed by the previous version, where the columns implied five tasks.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import medvlm.tasks
from medvlm.core.config import kinds
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample, UnknownTruth, make_truth
from medvlm.core.tasks import find_task, list_tasks
from medvlm.data.prepare import choose
from medvlm.data.source import SourceView, make_filter
from medvlm.io.forms import load_index
from medvlm.io.opening import open_shards
from medvlm.io.shard_index import index_path
from medvlm.io.shards import ShardSet, ShardWriter

OLD = Path(__file__).parent.parent / "fixtures" / "first_format" / "shards.tar.xz"
SIXTH = """
from dataclasses import dataclass
from typing import Literal
from medvlm.core import sample
from medvlm.core.config import Config as Base

@dataclass(frozen=True)
class Truth(sample.Truth):
    degrees: float = 0.0

class Config(Base):
    kind: Literal["angle"]

EXAMPLES = []
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(OLD) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path / "shards"


@pytest.fixture
def angle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Adds a file to the folder of tasks while the test runs."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "angle.py").write_text(SIXTH)
    monkeypatch.setattr(medvlm.tasks, "__path__", [*medvlm.tasks.__path__, str(folder)])
    clear_caches()
    assert "angle" in list_tasks()
    yield
    monkeypatch.undo()
    clear_caches()


def clear_caches() -> None:
    kinds.cache_clear()
    find_task.cache_clear()


def count_questions(shards: ShardSet) -> dict[tuple[str, int], dict[str, int]]:
    """The questions of each task, counted from the samples themselves."""
    return {
        (split, i): dict(Counter(q.truth.task for q in shards.read(split, i)[0].questions))
        for split in shards.splits
        for i in range(shards.count(split))
    }


def count_in_index(shards: ShardSet) -> dict[tuple[str, int], dict[str, int]]:
    return {place: shards.entry(*place).tasks for place in count_questions(shards)}


def test_an_index_of_version_1_is_read_and_not_rewritten(old: Path) -> None:
    indexes = sorted(old.glob("*.index.json"))
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in indexes]
    assert {json.loads(data)["version"] for data, _ in before} == {1}
    shards = open_shards(old)
    expected = count_questions(shards)
    assert count_in_index(shards) == expected and len(expected) == 18
    assert {task for tasks in expected.values() for task in tasks} == {"choice", "count", "boxes", "report"}
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in indexes] == before


def test_an_index_of_version_1_is_read_from_a_read_only_folder(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvlm.io.forms.save_index", lambda *_: pytest.fail("an index was written"))
    assert count_in_index(open_shards(old)) == count_questions(open_shards(old))


def test_a_rebuilt_index_has_the_same_content_with_task_names(old: Path) -> None:
    shards = open_shards(old)
    for tar in sorted(old.glob("*.tar")):
        first = load_index(tar)
        index_path(tar).unlink()
        second = load_index(tar)
        written = json.loads(index_path(tar).read_text())
        assert written["version"] == 2 and set(written["tasks"]) == {
            task for task, n in zip(first.tasks, first.tasks_NK.sum(axis=0), strict=True) if n
        }
        assert first.sha256 == second.sha256
    again = open_shards(old)
    assert count_in_index(again) == count_in_index(shards) and again.fingerprint == shards.fingerprint


def test_a_sixth_task_leaves_an_index_of_version_1_readable(old: Path, angle: None) -> None:
    shards = open_shards(old)
    assert count_in_index(shards) == count_questions(shards)


def write_angles(folder: Path) -> None:
    side = Question("Which side?", make_truth("choice", "left", choices=("left", "right")), "side")
    tilt = Question("How far is it tilted?", make_truth("angle", "30", degrees=30.0), "tilt")
    with ShardWriter(folder, "train") as writer:
        for i, questions in enumerate([(side,), (tilt, side), (tilt,), ()]):
            media = (Medium("film", "0.bin", (2, 2)),)
            writer.write(Sample(f"k{i}", "made", "train", media, questions=questions), {"0.bin": b"1234"})


def test_a_sixth_task_is_written_and_read(tmp_path: Path, angle: None) -> None:
    write_angles(tmp_path / "shards")
    shards = open_shards(tmp_path / "shards")
    assert [shards.entry("train", i).tasks for i in range(4)] == [
        {"choice": 1},
        {"angle": 1, "choice": 1},
        {"angle": 1},
        {},
    ]
    truth = shards.read("train", 2)[0].questions[0].truth
    assert truth == make_truth("angle", "30", degrees=30.0) and not isinstance(truth, UnknownTruth)


def test_samples_with_an_unknown_task_serve_stages_that_do_not_use_it(
    tmp_path: Path, angle: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_angles(tmp_path / "shards")
    monkeypatch.undo()  # removes the file from the folder of tasks
    clear_caches()
    assert "angle" not in list_tasks()
    for rebuilt in (False, True):
        if rebuilt:
            index_path(tmp_path / "shards" / "train-000000.tar").unlink()
        shards = open_shards(tmp_path / "shards")
        assert shards.entry("train", 1).tasks == {"angle": 1, "choice": 1}
        view = SourceView(shards, ("train",), make_filter(tasks=("choice", "count")))
        assert [view.entry(i).key for i in range(len(view))] == ["k0", "k1"]
        sample, files = view.read(1)
        (asked,) = choose(sample, ("choice",), 1, 0, 7, "instruct")
        assert asked.truth.answer == "left" and files == {"0.bin": b"1234"}
        (tilt,) = choose(sample, ("angle",), 1, 0, 7, "instruct")
        with pytest.raises(DataError, match="task 'angle' is not known"):
            find_task(tilt.truth.task)
    # Writing the sample again loses nothing.
    with ShardWriter(tmp_path / "copy", "train") as writer:
        writer.write(*shards.read("train", 1))
    assert open_shards(tmp_path / "copy").read("train", 0) == shards.read("train", 1)


def test_an_index_of_a_newer_version_is_refused_with_a_remedy(old: Path) -> None:
    path = sorted(old.glob("*.index.json"))[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 3}))
    with pytest.raises(
        DataError, match=r"the index has version 3, expected at most 2; update medvlm, or delete the index"
    ):
        open_shards(old)


@pytest.mark.parametrize(
    "tasks", [["choice"], ["choice", "choice", "count", "boxes", "report"], [1, 2, 3, 4, 5], "abcde", None], ids=str
)
def test_an_index_whose_tasks_do_not_fit_its_columns_is_damaged(old: Path, tasks: object) -> None:
    path = sorted(old.glob("*.index.json"))[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2, "tasks": tasks}))
    with pytest.raises(DataError, match=r"index\.json: a damaged index"):
        open_shards(old)
