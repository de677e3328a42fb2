"""The model card and all other files except the weights."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvlm.core.card import Licence
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder, write_json
from medvlm.export.card.licence import HUB, choose_hub_licence, describe_licences
from medvlm.export.proof import parity
from medvlm.export.redact import find_traces, strip_paths
from medvlm.export.run import export

from .conftest import RESULTS, recipe_of, trained_of, unproven, with_film

PATIENT = "5f1d0c9ab37e"
HOME = "/home/dr.smith/patients"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, run: RunFolder) -> Path:
    """An export of a model of two data sets. The run folder contains data that must not be exported."""
    (run.root / "evaluate").mkdir(exist_ok=True)
    run.answers.write_text(json.dumps({"key": "k", "patient": PATIENT, "answer": "a nodule"}))
    recipe = with_film(recipe_of({}, {}), {"preprocess": {"size": [32, 32], "window": [0, 4095]}})
    trained = trained_of(recipe)
    plain = json.loads(json.dumps(trained.plain))
    plain["model"]["language"]["model"] = f"{HOME}/models/llama"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "prove", unproven)
        patch.setenv("HF_TOKEN", "hf_0123456789abcdefghij")
        return export(run, tmp_path_factory.mktemp("cards") / "out", replace(trained, plain=plain), "stock").folder


@pytest.fixture(scope="module")
def card(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_the_hub_reads_the_front_matter(folder: Path) -> None:
    from huggingface_hub import ModelCard

    data = ModelCard.load(folder / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-text-to-text")
    assert data.license == "cc-by-nc-sa-4.0" and data.license in HUB
    assert data.datasets == ["bccd", "cxr_cohen"]
    assert data.base_model is None, "a folder on somebody's disk is no base model"
    assert data.eval_results is not None
    found = {(r.dataset_type, r.dataset_split, r.metric_type): r for r in data.eval_results}
    assert {key: r.metric_value for key, r in found.items()} == {
        (r["dataset"], r["split"], r["metric"]): r["value"] for r in RESULTS
    }
    assert found["bccd", "test", "mae"].dataset_name == "BCCD, blood cells in smears"
    accuracy = found["cxr_cohen", "test", "accuracy"]
    assert accuracy.metric_name == "accuracy (95 % interval 0.8 to 0.91, n 120)"
    assert accuracy.metric_args == {"ci95": [0.8, 0.91], "n": 120, "baselines": {"blind": 0.4, "majority": 0.41}}


def test_a_non_commercial_data_set_makes_a_non_commercial_model(card: str) -> None:
    licence = card.partition("## Licence")[2].partition("## ")[0]
    assert "**Non-commercial use only**, because of cxr_cohen." in licence
    assert "**Share alike**" in licence and "MIT" in licence


def test_the_card_says_what_it_is_not_for_and_what_it_was_made_of(card: str) -> None:
    assert "This is not a medical device" in card
    assert "de-identified by its authors" in card and "no patient data" in card
    assert "no patient is in more than one split" in card and "split by image" in card
    assert "train 90, test 30" in card
    assert "| cxr_cohen:test | vqa | accuracy | 0.86 | 0.8 to 0.91 | 120 | 0.4 | 0.41 |" in card
    assert "| instruct | supervised | connectors, lora |" in card
    assert "integers from 0 to 1000 over the image after this preprocessing" in card
    assert "recipe `0123abcd`" in card


def test_the_lines_of_the_card_run(folder: Path, card: str, tmp_path: Path) -> None:
    """Six lines, two of them imports, on a grey picture of an odd size."""
    from PIL import Image

    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    assert len(code.splitlines()) == 6 and "medvlm" not in code
    Image.effect_noise((51, 37), 80).save(tmp_path / "film.png")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code.replace("FOLDER", str(folder)).replace("IMAGE", str(tmp_path / "film.png")), {})
    assert said.getvalue().endswith("\n")


def test_the_window_of_the_card_is_the_one_of_training(card: str) -> None:
    import numpy as np

    from medvlm.core.contracts import Preprocess
    from medvlm.data.transforms import to_display

    line = re.findall(r"`(numpy\.uint8.*?)`", card)[0]
    pixels = np.array([[0, 1000], [4095, 6000]], np.uint16)
    expected = to_display(pixels, Preprocess(size=(32, 32), window=(0, 4095)))
    np.testing.assert_array_equal(eval(line, {"numpy": np, "pixels": pixels}), expected)


def test_nothing_of_this_machine_or_of_a_patient_is_in_the_folder(folder: Path, run: RunFolder) -> None:
    everything = b"\n".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())
    for secret in (PATIENT, HOME, "/srv/patients", "hf_0123456789", str(run.root), str(folder.parent), str(Path.cwd())):
        assert secret.encode() not in everything, secret
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {
        f"medvlm/{n}"
        for n in (
            "lineage.json",
            "results.json",
            "preprocessing.json",
            "parity.json",
            "audit.json",
            "recipe.resolved.yaml",
            "cards/films.yaml",
        )
    } <= names
    assert not any("answers" in n or "places" in n for n in names)


def test_a_folder_that_would_give_something_away_is_not_written(
    tmp_path: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "prove", unproven)
    monkeypatch.setenv("WANDB_API_KEY", "tiny-but-secret")
    trained = trained_of(recipe_of({}, {}))
    leaking = replace(trained, plain={**trained.plain, "name": "tiny-but-secret"})
    with pytest.raises(RuntimeError, match=r"README\.md: the value of \$WANDB_API_KEY"):
        export(run, tmp_path / "out", leaking, "stock")
    assert not list(tmp_path.iterdir())


def test_files_can_be_read_by_others(folder: Path) -> None:
    """safetensors writes files that only their owner can read, but a server runs as another user."""
    assert all(p.stat().st_mode & 0o044 == 0o044 for p in folder.rglob("*") if p.is_file())


def test_an_export_is_replaced_by_a_new_one(folder: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "prove", unproven)
    windowed = {"preprocess": {"size": [32, 32], "window": [0, 4095]}}
    before, own = (folder / "README.md").read_text(), folder / "old.txt"
    own.write_text("somebody put this here")
    with pytest.raises(RecipeError, match=r"holds old.txt, which no export wrote"):
        export(run, folder, trained_of(with_film(recipe_of({}, {}), windowed)), "stock")
    assert (folder / "README.md").read_text() == before and own.exists()
    own.unlink()
    export(run, folder, trained_of(with_film(recipe_of({}, {}), windowed)), "stock")
    assert (folder / "README.md").read_text() != before
    assert [p.name for p in folder.parent.iterdir()] == ["out"]


def test_a_model_without_an_evaluation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "prove", unproven)
    bare = RunFolder(tmp_path / "runs" / "bare")
    write_json(bare.lineage, {})
    receipt = export(bare, tmp_path / "out", replace(trained_of(recipe_of({}, {})), results=()), "stock")
    text = (receipt.folder / "README.md").read_text()
    assert "This model was not evaluated" in text
    assert "model-index" not in yaml.safe_load(text.split("---\n")[1])


def test_data_that_was_only_looked_at_binds_nobody(no_children: None) -> None:
    """Data that a model is only tested on do not affect its licence, unless a tokenizer is trained on their reports."""
    from medvlm.export.run import _list_binding_cards

    trained = trained_of(recipe_of({}, {}))
    stage = trained.recipe.stages[0].model_copy(update={"mix": {"smears": 1.0}})
    recipe = trained.recipe.model_copy(update={"stages": (stage,)})
    assert set(_list_binding_cards(replace(trained, recipe=recipe))) == {"smears", "films"}
    language = recipe.model.language.model_copy(update={"model": "Qwen/Qwen3-4B", "config": {}})
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"language": language})})
    assert set(_list_binding_cards(replace(trained, recipe=recipe))) == {"smears"}


# --- licences ---------------------------------------------------------------------------------------


def licence(name: str, **rest: Any) -> Licence:
    return Licence(id=name, **{"commercial": True, **rest})


def test_the_licence_that_covers_all_others_is_the_models() -> None:
    nc, sa, mit, cc0 = (
        licence("CC-BY-NC-4.0", commercial=False),
        licence("CC-BY-SA-4.0", share_alike=True),
        licence("MIT"),
        licence("CC0-1.0", attribution=False),
    )
    assert choose_hub_licence([mit]) == {"license": "mit"}
    assert choose_hub_licence([cc0, mit]) == {"license": "mit"}
    assert choose_hub_licence([mit, nc, cc0]) == {"license": "cc-by-nc-4.0"}
    # Neither covers the other: both apply, and no identifier of the Hub says that.
    assert choose_hub_licence([nc, sa]) == {
        "license": "other",
        "license_name": "cc-by-nc-4.0-and-cc-by-sa-4.0",
        "license_link": "README.md#licence",
    }
    # What it was started from has a licence of its own, which is not known here.
    assert choose_hub_licence([mit], has_base=True) == {
        "license": "other",
        "license_name": "mit-and-base-models",
        "license_link": "README.md#licence",
    }


def test_a_licence_of_its_own_is_linked() -> None:
    own = licence("PhysioNet Credentialed 1.5", commercial=False, redistribute=False, url="https://example.org/terms")
    assert choose_hub_licence([own, licence("MIT")]) == {
        "license": "other",
        "license_name": "physionet-credentialed-1.5",
        "license_link": "https://example.org/terms",
    }
    words = describe_licences({"commercial": False, "share_alike": False, "redistribute": False}, {"mimic": own})
    assert "may not be passed on" in words and "https://example.org/terms" in words


def test_no_data_set_means_no_known_licence() -> None:
    assert choose_hub_licence([]) == {"license": "unknown"}


# --- paths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/anna/data/cxr-{000..511}.tar", "cxr-{000..511}.tar"),
        ("~/models/qwen", "qwen"),
        ("file:///srv/x/y.tar", "y.tar"),
        (r"C:\Users\anna\film.png", "film.png"),
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("cards/phantom.yaml", "cards/phantom.yaml"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("read from /srv/x/y.tar, then packed", "read from y.tar, then packed"),
        ("and/or, 1/2, mg/dl", "and/or, 1/2, mg/dl"),
        (["/a/b", {"k": "/a/c"}, 3, None], ["b", {"k": "c"}, 3, None]),
    ],
)
def test_of_a_local_path_only_the_last_part_is_left(value: Any, expected: Any) -> None:
    assert strip_paths(value) == expected


def test_traces_are_found_and_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"_name_or_path": "{Path.home()}/qwen"}}')
    (tmp_path / "tokenizer.json").write_text(f"a token of somebody's vocabulary: {Path.home()}/")
    assert find_traces(tmp_path, []) == ["config.json: the home folder"]
