"""`medvlm predict`: answers and scores for files and shards without truth."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medvlm.cli import main
from medvlm.commands import predict as predicting
from medvlm.commands.chat import talk
from medvlm.commands.files import list_media, read_media
from medvlm.compositions._open import open_model
from medvlm.core.ask import Ask
from medvlm.core.errors import RecipeError
from medvlm.preflight.rehearsal.ready import save_tiny
from tests.io.dicom.series import save, slices

QUESTIONS = ("What is it?", "Where is it?")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a folder with pictures, a DICOM series and a text."""
    folder = tmp_path_factory.mktemp("predict")
    save_tiny("qwen3_vl", folder / "model")
    rng = np.random.default_rng(3)
    (folder / "own" / "below").mkdir(parents=True)
    for name in ("a.png", "below/b.png", ".hidden.png"):
        Image.fromarray(rng.integers(0, 256, (64, 48), dtype=np.uint8)).save(folder / "own" / name)
    (folder / "own" / "notes.txt").write_text("no image")
    save(slices(), folder / "own" / "ct")
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    return [{**row, "scores": row["scores"] and dict(row["scores"])} for row in pq.read_table(path).to_pylist()]


def ask(place: Path, to: Path, *words: str) -> int:
    asked = [word for question in QUESTIONS for word in ("--question", question)]
    return main(["predict", str(place / "model"), "--to", str(to), "--max-new-tokens", "5", *asked, *words])


def test_every_file_of_a_folder_has_its_answers_or_the_reason(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "answers.parquet"
    assert ask(place, to, "--on", str(place / "own")) == 0
    assert "6 answers, 1 files not read" in capsys.readouterr().out
    rows = read(to)
    volume = min(path.name for path in (place / "own" / "ct").iterdir())
    expected = [("a.png", question) for question in QUESTIONS] + [("below/b.png", question) for question in QUESTIONS]
    expected += [(f"ct/{volume}", question) for question in QUESTIONS] + [("notes.txt", "")]
    assert [(row["key"], row["question"]) for row in rows] == expected
    assert [row["problem"] for row in rows[:-1]] == [""] * 6
    assert rows[-1]["answer"] is None and "not a PNG, JPEG or .npy, but a text" in rows[-1]["problem"]
    answer = talk(str(place / "model"), [place / "own" / "a.png"], max_new_tokens=5)
    assert [row["answer"] for row in rows[:2]] == [answer(question) for question in QUESTIONS]
    assert list(tmp_path.iterdir()) == [to]


def test_a_file_that_is_named_twice_is_asked_about_once(place: Path, tmp_path: Path) -> None:
    own, to = str(place / "own"), tmp_path / "answers.parquet"
    twice = ["--on", own, "--on", f"{own}/a.png", "--on", own, "--precision", "bfloat16"]
    assert ask(place, to, *twice) == 0
    assert [row["key"] for row in read(to)].count("a.png") == len(QUESTIONS) and len(read(to)) == 7
    (opened,) = open_model(place / "model", precision="bfloat16")
    assert opened.identity["precision"] == "bfloat16"  # type: ignore[index]


def test_what_was_answered_before_a_stop_is_not_asked_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "TOGETHER", 1)
    whole, to = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    assert ask(place, whole, "--on", str(place / "own")) == 0
    (opened,) = open_model(place / "model")
    answer, keys = type(opened).answer, list[int]()

    def die_at_the_second(self: Any, asks: Sequence[Ask]) -> list[str]:
        keys.append(len(asks))
        if len(keys) == 2:
            raise MemoryError
        return answer(self, asks)

    monkeypatch.setattr(type(opened), "answer", die_at_the_second)
    with pytest.raises(MemoryError):
        ask(place, to, "--on", str(place / "own"))
    assert not to.exists()
    assert ask(place, to, "--on", str(place / "own")) == 0
    assert keys == [2, 2, 2, 2]  # the first is kept; the second, which died, and the third are asked
    assert read(to) == read(whole) and not (tmp_path / "unfinished").exists()


def test_media_of_a_folder_are_read_as_dicom_whatever_they_are_called(tmp_path: Path) -> None:
    save(slices(), tmp_path / "series")
    files = sorted((tmp_path / "series").iterdir())
    for number, path in enumerate(files):
        path.rename(path.with_name(f"IM{number}"))
    save(slices()[:1], tmp_path / "single")
    own = list_media(tmp_path)
    assert [each.name.partition("/")[0] for each in own] == ["series", "single"]
    volume, _ = read_media(own[:1], str)
    assert len(volume.media[0].size) == 3 and volume.media[0].size[0] == len(files)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--on", "{place}/nowhere"), "nowhere: there is no such file or folder"),
        (("--on", "{place}/own/notes.txt"), r"none of 1 samples could be asked; the first: .* but a text"),
        (("--on", "{place}/empty"), "empty: the folder has no files"),
        (("--on", ""), "--on or --question is empty"),
        (("--on", "{place}/own", "--question", ""), "--on or --question is empty"),
        (("--on", "{place}/own", "--to", "answers.csv"), "answers.csv: is written as parquet; name a file that ends"),
        (("--on", "{place}/own", "--question", "Where?\udcff"), "bytes that are not UTF-8"),
    ],
)
def test_what_cannot_be_asked_costs_a_line(
    words: tuple[str, ...], why: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "empty").mkdir(exist_ok=True)
    assert ask(place, tmp_path / "out.parquet", *(word.format(place=place) for word in words)) == 2
    assert re.search(why, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_file_whose_name_is_not_utf8_is_asked_about(place: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    shutil.copy(place / "own" / "a.png", tmp_path / "own" / "caf\udce9.png")
    assert ask(place, tmp_path / "out.parquet", "--on", str(tmp_path / "own")) == 0
    assert [row["key"] for row in read(tmp_path / "out.parquet")] == ["caf\\udce9.png"] * len(QUESTIONS)


def test_files_need_a_question(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="files hold no questions: give one or more with --question"):
        predicting.predict(str(place / "model"), [str(place / "own")], tmp_path / "out.parquet")
