"""What a user can mend ends a plan with its message, and is not listed as `not checked`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvlm.cli import main
from medvlm.core.errors import DataError
from medvlm.preflight.samples import look
from medvlm.recipe.load import load
from tests import tiny_run

TABLE = {
    **tiny_run.CARD,
    "access": "open",
    "splits": {"by": "image"},
    "reader": {
        "kind": "table",
        "file": "films.csv",
        "media": [{"file": "{path}", "kind": "film"}],
        "questions": [{"text": "Which side?", "answer": "{side}", "choices": ["left", "right"]}],
    },
}


def write(folder: Path, **source: str) -> Path:
    content: dict[str, Any] = tiny_run.recipe(stages=[{**tiny_run.INSTRUCT, "accumulate": 1, "tasks": ["choice"]}])
    content["data"]["films"] |= source
    return tiny_run.written(folder, content, TABLE)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"root": "nowhere"}, "nowhere: folder not found"),
        ({"root": "empty"}, r"films\.csv"),
        ({"root": "typo"}, "no column 'side', did you mean 'sid'"),
        ({"shards": "nowhere"}, "nowhere"),
        ({"shards": "empty"}, "empty"),
        ({"root": "typo", "salt_file": "nowhere"}, "this salt file cannot be read"),
    ],
)
def test_data_that_are_given_and_cannot_be_read_end_a_plan(source: dict[str, str], said: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "typo").mkdir()
    (tmp_path / "typo" / "films.csv").write_text("path,sid\na.png,left\n")
    loaded = load(write(tmp_path, **{key: str(tmp_path / name) for key, name in source.items()}))
    with pytest.raises(DataError, match=rf"^data\.films: .*{said}"):
        look(loaded, tmp_path / "runs")


@pytest.mark.parametrize("source", [{}, {"shards": "s3://bucket/films"}])
def test_data_that_are_elsewhere_are_not_checked(source: dict[str, str], tmp_path: Path) -> None:
    found = look(load(write(tmp_path, **source)), tmp_path / "runs")["films"]
    assert not found.is_real and found.how.startswith("not checked: ")


def test_a_sample_at_which_training_would_stop_ends_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_run.written(tmp_path, tiny_run.recipe(stages=[{**tiny_run.INSTRUCT, "accumulate": 1}]))
    assert main(["plan", str(path), "--runs", str(tmp_path / "runs"), "stages.instruct.max_tokens=8"]) == 2
    assert "tokens including its images, but stages.instruct.max_tokens is 8; raise it" in capsys.readouterr().err


TIMM = {"kind": "timm", "net": "resnet10t", "weights": "net.safetensors", "preprocess": {"size": [64, 64]}}
QFORMER = {"kind": "qformer", "width": 16, "heads": 2, "layers": 2, "weights": "qformer.safetensors"}
MLP = {"kind": "mlp"}


@pytest.mark.parametrize(
    ("encoder", "key"),
    [
        ({**TIMM, "connector": MLP}, "weights"),
        ({**tiny_run.TOWER, "connector": QFORMER}, "connector.weights"),
        ({"kind": "slices", "encoder": TIMM, "tiles": [1, 2], "serves": ["film"], "connector": MLP}, "encoder.weights"),
    ],
)
def test_a_file_of_weights_that_is_not_there_is_named_before_training(
    encoder: dict[str, Any], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [{**tiny_run.INSTRUCT, "accumulate": 1}]
    content = tiny_run.recipe(stages=stages, export={"target": "custom"})
    content["model"]["encoders"]["film"] = encoder
    path = tiny_run.written(tmp_path, content)
    assert main(["validate", str(path)]) == 0
    assert f"model.encoders.film.{key}: " in capsys.readouterr().out
    assert main(["train", str(path), "--runs", str(tmp_path / "runs")]) == 2
    assert "safetensors: there is no such file" in capsys.readouterr().err and not (tmp_path / "runs").exists()
