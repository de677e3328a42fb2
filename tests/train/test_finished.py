"""A text tower's tokenizer that is not in the run folder is compared with the one that a stage was trained with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.errors import CheckpointError
from medvlm.stages.contrastive import Config
from medvlm.train.finished import hash_texts, require_texts
from tests.fixtures.unpack import unpack
from tests.tiny_run import PAIR


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def model(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "dual" / "text_tokenizer", tmp_path / "tower"))


def stage_of(text: dict[str, Any]) -> Config:
    return Config.model_validate({**PAIR, "text": text})


def swap_ids(record: dict[str, Any]) -> None:
    words = record["model"]["vocab"]
    first, second = list(words)[-2:]
    words[first], words[second] = words[second], words[first]


def rename_word(record: dict[str, Any]) -> None:
    words = record["model"]["vocab"]
    merged = record["model"]["merges"].pop()
    words["another"] = words.pop("".join(merged if isinstance(merged, list) else merged.split()))


def add_token(record: dict[str, Any]) -> None:
    record["added_tokens"].append({**record["added_tokens"][-1], "id": 900, "content": "<new>"})


def test_a_tower_that_is_trained_from_scratch_has_none_of_its_own() -> None:
    assert hash_texts(stage_of({"kind": "transformers", "config": {"model_type": "bert"}})) == {}


def test_the_same_tokenizer_passes_and_a_run_of_an_earlier_release_too(model: Path) -> None:
    stage = stage_of({"kind": "transformers", "model": str(model)})
    hashes = hash_texts(stage)
    assert hashes.keys() == {"text"}
    require_texts(stage, {"texts": hashes})
    require_texts(stage, {})


@pytest.mark.parametrize("change", [swap_ids, rename_word, add_token])
def test_another_tokenizer_under_the_same_name_is_refused(change: Any, model: Path) -> None:
    stage = stage_of({"kind": "transformers", "model": str(model)})
    before = hash_texts(stage)
    path = model / "tokenizer.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"stages\.pair\.text: the tokenizer of .*tower has other words"):
        require_texts(stage, {"texts": before})
