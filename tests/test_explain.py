"""Mistakes that a library or a plug-in reports: one message, exit code 2, no traceback, nothing created."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from medvlm.cli import EXIT_USER, main
from medvlm.commands.explain import explain
from medvlm.core import config
from medvlm.core.config import permit
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.recipe.load import load
from tests import tiny_run


def refuse(words: list[str], capsys: pytest.CaptureFixture[str], is_alone: bool = True) -> str:
    """The message of a command that is refused. is_alone: nothing is printed before it. A library that this process has
    imported before the command is not silent."""
    assert main(words) == EXIT_USER
    said = capsys.readouterr().err
    assert "Traceback" not in said
    before, marker, message = said.rpartition("medvlm: ")
    assert marker and not (is_alone and before.replace("\r", "").strip()), before
    return marker + message


@pytest.mark.parametrize("verb", ["report", "evaluate", "lineage"])
def test_a_verb_creates_nothing_for_a_run_that_is_not_there(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "runs/typo" in refuse([verb, "runs/typo"], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("films:nope", "command line on: 'films:nope' names no split: expected SOURCE:test"),
        ("films:test:train", "command line on: 'films:test:train' names no split"),
        ("flims", "--on flims: there is no such source, did you mean 'films'? (sources: films)"),
        (":test", "--on : there is no such source (sources: films)"),
    ],
)
def test_what_evaluate_cannot_find_is_named(
    on: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(tiny_run.written(tmp_path, tiny_run.recipe())).save(tmp_path)
    assert message in refuse(["evaluate", str(tmp_path), "--on", on], capsys)


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3", "llava", "smolvlm"])
def test_a_vision_language_model_is_not_embedded(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, image = save_tiny(family, tmp_path / family), tmp_path / "x.png"
    Image.new("L", (64, 64)).save(image)
    capsys.readouterr()
    said = refuse(["embed", str(model), str(image), "--to", str(tmp_path / "e.parquet")], capsys, is_alone=False)
    assert "a vision-language model, which gives no vector for an image by itself" in said
    assert not (tmp_path / "e.parquet").exists()


def test_chat_looks_for_the_files_before_it_reads_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refuse(["chat", str(tmp_path / "model"), str(tmp_path / "nope.png"), "--question", "x"], capsys)
    assert said == f"medvlm: {tmp_path / 'nope.png'}: there is no such file\n"


@pytest.mark.parametrize("content", ["", "notes.txt", "train-000.tar"])
def test_a_folder_that_is_no_run_gets_no_report(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content:
        (tmp_path / content).touch()
    assert "is not a run folder" in refuse(["report", str(tmp_path)], capsys)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("kind", ["file", "file above", "not writable"])
def test_a_place_for_runs_that_cannot_be_made_is_named(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"file": tmp_path / "x", "file above": tmp_path / "x" / "deeper", "not writable": Path("/proc/x")}[kind]
    (tmp_path / "x").touch()
    written = tiny_run.written(tmp_path, tiny_run.recipe())
    assert str(place) in refuse(["train", str(written), "--runs", str(place)], capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("kind", ["auto", "single"])
def test_cuda_without_a_gpu_says_what_to_do(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tiny_run.written(tmp_path, tiny_run.recipe())
    words = ["train", str(written), "engine.device=cuda", f"engine.kind={kind}", "--runs", str(tmp_path / "runs")]
    assert "torch finds no GPU here" in refuse(words, capsys)
    assert not (tmp_path / "runs").exists()


PLUGIN = """
import torch

class Score:
    def __init__(self, weight):
        self.weight = weight

def divide(x):
    return 1 / x

def add(x):
    return torch.ones(2) + x

def call(x):
    return x()
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    (tmp_path / "ourlab.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(config, "_PERMITTED", set())
    permit(["ourlab"])
    monkeypatch.delitem(sys.modules, "ourlab", raising=False)
    return __import__("ourlab")


def catch(plugin: object, name: str, *args: object) -> BaseException:
    """What a function of the plug-in raises where medvlm calls it."""
    space = {"__name__": "medvlm.stages.caller", "function": getattr(plugin, name), "args": args}
    with pytest.raises(Exception) as raised:
        exec("function(*args)", space)
    return raised.value


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("divide", 0, "the plug-in ourlab failed (ourlab.py, line 9, in divide): ZeroDivisionError: division by zero"),
        ("divide", "x", "the plug-in ourlab failed (ourlab.py, line 9, in divide): TypeError: unsupported operand"),
        ("add", torch.ones(3), "the plug-in ourlab failed (ourlab.py, line 12, in add): RuntimeError: The size of"),
        ("call", None, "the plug-in ourlab failed (ourlab.py, line 15, in call): TypeError: 'NoneType' object is not"),
    ],
)
def test_an_error_in_a_plugin_names_it(plugin: object, name: str, argument: object, message: str) -> None:
    assert explain(catch(plugin, name, argument)).startswith(message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("divide", "the plug-in ourlab does not fit: divide() missing 1 required positional argument: 'x'; see "),
        ("Score", "the plug-in ourlab does not fit: Score.__init__() missing 1 required positional argument: 'weight'"),
    ],
)
def test_a_plugin_that_takes_other_arguments_is_named(plugin: object, name: str, message: str) -> None:
    assert explain(catch(plugin, name)).startswith(message)


def test_an_error_of_medvlm_keeps_its_traceback(plugin: object) -> None:
    space = {"__name__": "medvlm.stages.caller", "plugin": plugin}
    with pytest.raises(Exception) as raised:
        exec("plugin.call(lambda: 1 / 0)", space)
    assert explain(raised.value) == "", "its innermost frame is not the plug-in's"
    assert explain(ValueError("x")) == explain(OSError(5, "an error of a disk", "x")) == ""
