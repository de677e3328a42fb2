"""Folders that need medvlm: compositions that fit no stock class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.compositions._folder import is_model_folder, open_folder
from medvlm.compositions._open import open_run
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.run import RunFolder
from medvlm.export.proof import parity
from medvlm.export.run import export
from medvlm.export.targets.custom import write
from medvlm.models.parts import evaluating

from .conftest import PICTURE, SMALL, recipe_of, trained_of, unproven

VOLUME = {
    "kind": "monai",
    "patch": [4, 16, 16],
    "width": 32,
    "layers": 1,
    "heads": 2,
    "serves": ["ct"],
    "connector": {"kind": "resampler", "tokens": 4},
    "preprocess": {
        "size": [8, 32, 32],
        "channels": 2,
        "mean": [0.5, 0.5],
        "std": [0.5, 0.5],
        "windows": [[0, 4000], [1000, 2000]],
        "spacing_mm": [3.0, 1.5, 1.5],
        "fit": "crop",
    },
}


@pytest.mark.slow
def test_films_and_volumes_in_one_model_are_proven_with_medvlm(tmp_path: Path, run: RunFolder) -> None:
    trained = trained_of(recipe_of({}, {"tie_word_embeddings": True}, target="custom", ct=VOLUME))
    with pytest.raises(RecipeError, match=r"2 encoders \(film, ct\).*export\.target: custom"):
        export(run, tmp_path / "out", trained, "stock")
    receipt = export(run, tmp_path / "out", trained, "custom")
    proof = json.loads((receipt.folder / "medvlm" / "parity.json").read_text())
    assert proof["passed"] and proof["max_abs_logit_diff"] <= 1e-4
    # Three films, the volume, no image, and the volume together with a film.
    assert [case["images"] for case in proof["cases"]] == [1, 1, 1, 1, 0, 2]
    card = (receipt.folder / "README.md").read_text()
    assert (
        "resampled to 3 x 1.5 x 1.5 mm, center cropped or padded with black to 8 x 32 x 32 px, 2 channels, one channel"
        " for each of the windows [[0.0, 4000.0], [1000.0, 2000.0]]" in card
    )
    assert "needs the package medvlm" in card and "library_name: medvlm" in card and "2 encoders (film, ct)" in card
    assert receipt.audit.shared == {"language.lm_head.weight": "language.model.embed_tokens.weight"}


def test_a_custom_folder_is_a_recipe_too(tmp_path: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """`medvlm evaluate FOLDER` finds recipe and cards at the same paths as in a run."""
    from medvlm.recipe.load import load_run

    monkeypatch.setattr(parity, "prove", unproven)
    receipt = export(run, tmp_path / "out", trained_of(recipe_of({}, {})), "custom")
    recipe = load_run(receipt.folder).recipe
    assert is_model_folder(receipt.folder) and recipe.name == "tiny" and recipe.export.target == "custom"
    (opened,) = open_run(recipe, receipt.folder)
    assert opened.can == {"answer", "draw", "weigh", "represent"}
    assert [opened.prepare.takes(kind) for kind in ("film", "smear", "ct")] == [True, True, False]


def test_parts_that_came_from_elsewhere_are_whole_without_it(tmp_path: Path, no_children: None) -> None:
    """The recipe names folders (or hub ids); the exported folder must load without them."""
    from transformers import AutoModel, AutoModelForCausalLM, Qwen2Config, SiglipVisionConfig

    AutoModel.from_config(SiglipVisionConfig(**SMALL, **PICTURE)).save_pretrained(tmp_path / "tower")
    # Vocabularies of published models are larger than their tokenizers.
    AutoModelForCausalLM.from_config(Qwen2Config(**SMALL, num_key_value_heads=2, vocab_size=512)).save_pretrained(
        tmp_path / "language"
    )
    recipe = recipe_of({}, {})
    film, language = recipe.model.encoders["film"], recipe.model.language
    changed = {"encoders": {"film": film.model_copy(update={"model": str(tmp_path / "tower"), "config": {}})}}
    changed["language"] = language.model_copy(update={"model": str(tmp_path / "language"), "config": {}})
    trained = trained_of(recipe.model_copy(update={"model": recipe.model.model_copy(update=changed)}))
    model: Any = trained.model
    ids = torch.arange(20, 40)[None]
    with evaluating(model):
        before = model.language(input_ids=ids).logits
    (tmp_path / "out").mkdir()
    write(trained, tmp_path / "out")
    for name in ("tower", "language"):
        (tmp_path / name).rename(tmp_path / f"{name}-is-gone")
    made = open_folder(tmp_path / "out")
    with evaluating(made.model):
        torch.testing.assert_close(made.model.language(input_ids=ids).logits, before, rtol=0, atol=1e-5)
    assert str(tmp_path).encode() not in (tmp_path / "out" / "model.json").read_bytes()


def test_a_dual_encoder_comes_back_with_its_bias(tmp_path: Path, no_children: None) -> None:
    trained = trained_of(recipe_of({}, None))
    write(trained, tmp_path)
    made = open_folder(tmp_path).model
    assert made.heads["scale"].bias.item() == -10.0 and made.heads["scale"].log_scale.item() == pytest.approx(2.3)


def test_weights_that_do_not_fit_are_named(tmp_path: Path, no_children: None) -> None:
    from safetensors.torch import load_file, save_file

    trained = trained_of(recipe_of({}, {}))
    write(trained, tmp_path)
    weights = load_file(tmp_path / "weights.safetensors")
    save_file({n.replace("linear_1", "linear_9"): t for n, t in weights.items()}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"connectors\.film\.linear_1\.bias is missing"):
        open_folder(tmp_path)
    with pytest.raises(CheckpointError, match="is not a model folder of medvlm"):
        open_folder(tmp_path / "nowhere")


def test_the_stage_says_which_text_tower(no_children: None) -> None:
    trained = trained_of(recipe_of({}, None))
    assert trained.composition.describe(trained.model, trained.tokenizer, trained.recipe, trained.config).width == 24
