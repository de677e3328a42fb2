"""Models described in the package have the published sizes and parameter names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medvlm.core.config import kinds
from medvlm.core.errors import RecipeError
from medvlm.recipe.known import FOLDER, inline_configs, list_known_models, look_up_model
from medvlm.recipe.load import load
from tests.models.tiny import Ids

FILES = sorted(FOLDER.glob("*.json"))
QUICK = ("qwen3-4b-instruct-2507", "siglip-so400m-patch14-384", "biomedbert-base-uncased-abstract")
COUNTED = [pytest.param(path, id=path.stem, marks=() if path.stem in QUICK else pytest.mark.slow) for path in FILES]


@pytest.mark.parametrize("path", COUNTED)
def test_a_described_model_has_as_many_parameters_as_the_published_one(path: Path) -> None:
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForSeq2SeqLM,
    )

    record = json.loads(path.read_text())
    config = dict(record["config"])
    kind = config.pop("model_type")
    towers = ("siglip", "clip", "dinov2", "bert", "longformer", "sam")
    whole = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    auto = AutoModelForImageTextToText if kind in kinds("families") else AutoModel if kind in towers else whole
    with torch.device("meta"):
        model = auto.from_config(AutoConfig.for_model(kind, **config))
    assert record["parameters"] in (None, sum(p.numel() for p in model.parameters()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_description_says_where_it_is_from(path: Path) -> None:
    record = json.loads(path.read_text())
    assert record["ids"] and record["source"] and record["config"]["model_type"]
    if tokenizer := record.get("tokenizer"):
        words = record["config"].get("text_config", record["config"])["vocab_size"]
        assert tokenizer["size"] <= words


def test_no_model_is_described_twice() -> None:
    ids = [name for path in FILES for name in json.loads(path.read_text())["ids"]]
    assert sorted(ids) == list_known_models() == sorted(set(ids))


def test_a_model_that_is_nowhere_says_how_to_get_it() -> None:
    with pytest.raises(
        RecipeError, match=r"Qwen/Qwen3-5B-Instruct.*did you mean 'Qwen/.*hf download Qwen/Qwen3-5B-Instruct.*path"
    ):
        look_up_model("Qwen/Qwen3-5B-Instruct")
    with pytest.raises(RecipeError, match=r"/no/such: has no config\.json"):
        look_up_model("/no/such")


def test_a_folder_is_known_by_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "siglip", "vision_config": {"hidden_size": 8}, "text_config": {"hidden_size": 4}}'
    )
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"height": 16, "width": 16}}')
    found = look_up_model(str(tmp_path))
    assert (found.vision, found.text, found.folder) == ({"hidden_size": 8}, {"hidden_size": 4}, str(tmp_path))
    assert found.preprocessor["size"] == {"height": 16, "width": 16}


def test_a_recipe_by_hub_ids_is_described_with_everything_that_is_built() -> None:
    loaded = load("phantom.yaml", [
        'model.encoders.film={"kind": "transformers", "model": "google/medsiglip-448", "connector": {"kind": "mlp"}}',
        'model.language={"kind": "causal", "model": "Qwen/Qwen3-4B-Instruct-2507"}',
    ])  # fmt: skip
    made = inline_configs(loaded.recipe)
    film, language = made.model.encoders["film"], made.model.language
    assert (film.model, film.config["image_size"], film.preprocess.size) == ("", 448, (448, 448))
    assert (language.model, language.config["hidden_size"]) == ("", 2560)


@pytest.mark.parametrize("whole", ["siglip", "clip"])
def test_a_described_tower_has_the_names_that_it_has_in_the_whole_model(whole: str) -> None:
    from transformers import AutoConfig, AutoModel

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    parts = {"vision_config": {**small, "image_size": 16, "patch_size": 8}, "text_config": {**small, "vocab_size": 64}}
    model = AutoModel.from_config(AutoConfig.for_model(whole, **parts))
    alone = AutoModel.from_config(AutoConfig.for_model(f"{whole}_vision_model", **parts["vision_config"]))
    assert {n: p.shape for n, p in alone.named_parameters()} == {
        n: p.shape for n, p in model.vision_model.named_parameters()
    }


def test_a_described_text_tower_is_that_of_the_whole_model() -> None:
    from medvlm.texts import transformers as texts

    tower = texts.Config(kind="transformers", model="openai/clip-vit-base-patch32")
    found = look_up_model(tower.model)
    with torch.device("meta"):
        made = texts.build(tower.model_copy(update={"model": "", "config": found.text}), Ids())
    assert made.width == 512
    assert "tower.encoder.layers.11.mlp.fc2.weight" in dict(made.named_parameters())
