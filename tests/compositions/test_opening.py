"""Opening the right model of a run, and compositions of plug-ins."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from medvlm.compositions._folder import open_folder, read_manifest
from medvlm.compositions._open import open_model
from medvlm.compositions._opened import find
from medvlm.core.composition import composition_of
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.run import RunFolder, write_json
from medvlm.recipe.load import load
from tests.tiny_run import CARD, INSTRUCT, PAIR, REASON, recipe, staged, trained, written

SHORT = {"steps": 2, "batch": 4, "save_every": 0, "accumulate": 1}
FILMS = {**CARD, "reader": {"kind": "phantom", "films": 24, "film_px": 96}}
SIAMESE = '''
"""A dual encoder whose similarity starts at a scale of its own."""

from typing import Literal

from torch import nn

from medvlm.compositions.dual import *
from medvlm.compositions import dual
from medvlm.core.composition import CompositionConfig


class Config(CompositionConfig):
    kind: Literal["mylab.siamese"]
    log_scale: float = 0.0


def build(assembly, stage, weights=True):
    model = dual.build(assembly, stage, weights)
    nn.init.constant_(model.heads["scale"].log_scale, assembly.model.composition.log_scale)
    return model
'''


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose stages train a dual encoder, then a model that answers."""
    folder = tmp_path_factory.mktemp("both")
    stages = [{**PAIR, **SHORT}, {**INSTRUCT, **SHORT}, {**REASON, **SHORT}]
    return trained(written(folder, recipe(stages=stages), FILMS), folder / "runs")


def test_a_run_opens_one_model_for_each_composition_the_latest_first(both: RunFolder) -> None:
    opened = open_model(both.root, max_new_tokens=3)
    assert [model.can for model in opened] == [{"answer", "draw", "weigh", "represent"}, {"embed", "represent"}]
    assert find(opened, "embed") is opened[1] and find(opened, "decode") is None
    assert [model.max_new_tokens for model in opened] == [3, 3]
    (pair,) = open_model(both.root, stage="pair")
    assert pair.can == {"embed", "represent"}
    with pytest.raises(CheckpointError, match=r"stage 'pare' is not finished \(finished: pair, instruct, reason\)"):
        open_model(both.root, stage="pare")


def test_what_a_model_cannot_do_is_refused(both: RunFolder) -> None:
    answers, embeds = open_model(both.root)
    for ask in (lambda: answers.embed_texts([""]), lambda: answers.embed_media([]), lambda: embeds.answer([])):
        with pytest.raises(RecipeError, match="this model does not"):
            ask()


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a model folder of medvlm \(model\.json: FileNotFoundError\)"):
        open_folder(tmp_path)
    with pytest.raises(RecipeError, match="neither a run nor a vision-language model"):
        open_model(tmp_path)


def test_keys_of_other_compositions_in_a_manifest_may_be_empty_and_nothing_else(tmp_path: Path) -> None:
    """As in the folders of the first releases."""
    film = {"kind": "timm", "net": "resnet10t", "preprocess": {"size": [32, 32]}}
    text = {"kind": "transformers", "config": {"model_type": "bert"}}
    written = {"format": 1, "makes": "dual", "encoders": {"film": film}, "text": text, "width": 8, "has_bias": True}
    write_json(tmp_path / "model.json", {**written, "language": None, "image_token": ""})
    assert read_manifest(tmp_path).width == 8
    write_json(tmp_path / "model.json", {**written, "image_token": "<image>"})
    with pytest.raises(CheckpointError, match="is not a model folder"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("makes", ["nonsense", "_open", "\ud800", "", "nolab.siamese", "nolab.\ud800"])
def test_a_folder_of_a_composition_that_is_not_installed_says_so(makes: str, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"format": 1, "makes": makes}))
    with pytest.raises(CheckpointError, match="no such composition is installed"):
        read_manifest(tmp_path)


# --- a composition of a plugin ------------------------------------------------------------------------


@pytest.fixture
def mylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A recipe of a dual encoder, and a package with a composition for it."""
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "__init__.py").write_text("")
    (tmp_path / "mylab" / "siamese.py").write_text(SIAMESE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mylab", raising=False)
    tower = {key: value for key, value in recipe()["model"]["encoders"]["film"].items() if key != "connector"}
    return recipe(plugins=["mylab"], model={"encoders": {"film": tower}}, stages=[{**PAIR, **SHORT}])


def test_a_recipe_names_a_composition_with_its_settings(mylab: dict[str, Any], tmp_path: Path) -> None:
    named = {**mylab["model"], "composition": {"kind": "mylab.siamese", "log_scale": 0.5}}
    for folder, content, log_scale in (("named", {**mylab, "model": named}, 0.5), ("usual", mylab, None)):
        path = written(tmp_path / folder, content, FILMS)
        found = staged(path, tmp_path / folder / "runs", "pair").model.heads["scale"].log_scale.item()
        assert (found == log_scale) == (log_scale is not None)
        assert ("composition" in load(path).resolve()["model"]) == (log_scale is not None), (
            "old runs keep their identity"
        )


def test_what_a_named_composition_cannot_do_falls_to_the_one_that_fits(mylab: dict[str, Any], tmp_path: Path) -> None:
    model = recipe()["model"]
    model["composition"] = {"kind": "mylab.siamese"}
    loaded = load(written(tmp_path / "two", recipe(plugins=["mylab"], model=model), FILMS)).recipe.model
    assert [composition_of(loaded, need).__name__ for need in ("embed", "answer")] == [  # type: ignore[attr-defined]
        "mylab.siamese",
        "medvlm.compositions.vlm",
    ]
    with pytest.raises(RecipeError, match="needs a model that can dream: there is no such composition"):
        composition_of(loaded, "dream")


def test_a_composition_of_a_package_that_is_not_listed_is_refused(mylab: dict[str, Any], tmp_path: Path) -> None:
    named = {**mylab["model"], "composition": {"kind": "otherlab.siamese"}}
    with pytest.raises(RecipeError, match=r"model\.composition\.kind: 'otherlab\.siamese' is a plugin's"):
        load(written(tmp_path / "refused", {**mylab, "model": named}, FILMS))
