"""Tasks for lmms-eval, without the package: what is written, and that answers are scored as `medvlm evaluate` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from medvlm.archive.packing.pack import pack
from medvlm.cli import main
from medvlm.core.card import load_card
from medvlm.evaluate.lmms_eval.tasks import list_pictures, score_answer, write_tasks
from medvlm.io.images import decode
from medvlm.io.opening import open_shards
from medvlm.recipe.load import find_shipped
from tests.archive import made_layouts


class Loader(yaml.SafeLoader):
    pass


def read_function(loader: yaml.SafeLoader, node: Any) -> str:
    return f"!function {loader.construct_scalar(node)}"


Loader.add_constructor("!function", read_function)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("slake")
    made_layouts.slake(root / "archive", cases=2)
    pack(load_card(find_shipped("data_cards") / "slake.yaml"), root / "archive", root / "shards", workers=1)
    return root / "shards"


def read(folder: Path, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    task = yaml.load((folder / f"{name}.yaml").read_text(), Loader)
    path = Path(task["dataset_kwargs"]["data_files"]["test"])
    return task, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_task_has_the_questions_and_pictures_of_the_shards(shards: Path, tmp_path: Path) -> None:
    name, count, left_out = write_tasks(str(shards), "test", tmp_path)
    task, docs = read(tmp_path, name)
    assert (name, count, left_out) == ("medvlm_slake_test", len(docs), {}) and task["task"] == name
    sample, files = open_shards(shards).read("test", 0)
    own = [doc for doc in docs if doc["id"].startswith(sample.key)]
    assert [doc["question"] for doc in own] == [q.text for q in sample.questions]
    (shown,) = list_pictures(own[0])
    stored = decode(files["0.png"], "0.png")
    assert np.array_equal(np.asarray(shown.convert("L")), stored) and isinstance(shown, Image.Image)
    assert (tmp_path / "utils.py").is_file() and task["doc_to_visual"] == "!function utils.doc_to_visual"


def test_an_answer_has_the_strict_score_and_that_of_each_rule(shards: Path, tmp_path: Path) -> None:
    name, *_ = write_tasks(str(shards), "test", tmp_path)
    task, docs = read(tmp_path, name)
    closed = next(doc for doc in docs if doc["reference"] == "yes")
    said = score_answer(closed, ["Yes, no doubt."])
    assert said == {
        "vqa_accuracy": 1, "vqa_accuracy_closed": 1, "llava_med_accuracy_closed": 1, "medevalkit_accuracy": 0,
        "medevalkit_accuracy_closed": 0,
    }  # fmt: skip
    opened = next(doc for doc in docs if doc["template"].startswith("open"))
    metrics = {each["metric"] for each in task["metric_list"]}
    assert metrics == said.keys() | score_answer(opened, [""]).keys()


def test_what_cannot_be_asked_is_said(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "tasks", str(shards), "--to", str(tmp_path / "out")]) == 0
    assert "medvlm_slake_test, 4 questions" in capsys.readouterr().out
    assert main(["data", "tasks", str(shards / "nowhere"), "--to", str(tmp_path / "out")]) == 2
    assert main(["data", "tasks", f"{shards}:tset", "--to", str(tmp_path / "out")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_model_answers_for_the_package(tmp_path: Path) -> None:
    pytest.importorskip("lmms_eval", reason="needs an environment with lmms-eval")
    from medvlm.evaluate.lmms_eval.model import list_models

    assert list_models().model_id == "medvlm"
