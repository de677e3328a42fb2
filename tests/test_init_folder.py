"""`medvlm init --data FOLDER`: from a folder of one's own to a trained model, as a new user would type it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvlm.cli import main
from medvlm.core.card import MEANING
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.recipe.load import load
from tests import own_folders as made

Capture = pytest.CaptureFixture[str]


def init(data: Path, to: Path, *more: str) -> int:
    return main(["init", "--data", str(data), "--to", str(to), *more])


def written(to: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Recipe and card."""
    recipe, card = (yaml.safe_load((to / name).read_text()) for name in ("recipe.yaml", "card.yaml"))
    return recipe, card


@pytest.mark.parametrize(
    ("make", "more", "kind", "said"),
    [
        (made.make_table, [], "heads", "small networks from random weights on labels"),
        (made.make_table, ["--for", "answers"], "supervised", "on answers"),
        (made.make_questions, [], "supervised", "on answers"),
        (made.make_captions, ["--for", "captions"], "contrastive", "on captions"),
        (made.make_captions, [], "supervised", "on answers (--for captions: on pairs"),
        (made.make_classes, [], "heads", "on labels"),
        (made.make_masks, [], "heads", "on masks"),
        (made.make_coco, [], "supervised", "on answers"),
        (made.make_dialogues, [], "supervised", "on answers"),
        (made.make_parquet, [], "supervised", "on answers"),
        (made.make_volumes, [], "heads", "on masks"),
        (lambda root: made.make_volumes(root, masks=False), [], "heads", "on labels"),
        (made.make_slides, [], "heads", "on labels"),
    ],
)
def test_a_folder_becomes_a_valid_recipe(
    make: Any, more: list[str], kind: str, said: str, tmp_path: Path, capsys: Capture
) -> None:
    data, to = make(tmp_path / "data"), tmp_path / "own"
    assert init(data, to, *more) == 0
    printed = capsys.readouterr().out
    assert said in printed and printed.startswith("found ") and "next: medvlm train" in printed
    assert stat.S_IMODE((to / "salt").stat().st_mode) == 0o600
    loaded = load(to / "recipe.yaml")
    assert [stage.kind for stage in loaded.recipe.stages] == [kind]
    assert main(["validate", str(to / "recipe.yaml")]) == 0
    assert "What only you can say" in (to / "card.yaml").read_text()


def test_the_folder_that_is_written_is_not_looked_at(tmp_path: Path) -> None:
    data = made.make_table(tmp_path / "data")
    assert init(data, data / "own") == 0
    assert init(data, data / "own2") == 0 and written(data / "own")[1]["reader"] == written(data / "own2")[1]["reader"]


def test_a_named_model_is_tuned_on_what_it_can_learn(tmp_path: Path, capsys: Capture) -> None:
    model = save_tiny("qwen3_vl", tmp_path / "model")
    data = made.make_table(tmp_path / "data")
    assert init(data, tmp_path / "own", "--model", str(model)) == 0
    recipe, _ = written(tmp_path / "own")
    assert recipe["model"] == {"pretrained": str(model)} and recipe["stages"][0]["trains"] == ["lora"]
    assert init(data, tmp_path / "other", "--model", str(model), "--for", "labels") == 2
    assert "learns answers, and --for is labels; leave out --model" in capsys.readouterr().err


def test_what_is_not_there_cannot_be_learnt(tmp_path: Path, capsys: Capture) -> None:
    assert init(made.make_classes(tmp_path / "data"), tmp_path / "own", "--for", "masks") == 2
    assert "--for masks: the data have nothing for it (they have labels, answers)" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("a")
    assert init(tmp_path / "empty", tmp_path / "own") == 2
    said = capsys.readouterr().err
    assert "nothing to learn from was found (1 .txt)" in said and "Expected one of: a table" in said
    assert init(tmp_path / "absent", tmp_path / "own") == 2 and main(["init"]) == 2
    assert "there is no such folder" in (said := capsys.readouterr().err) and "give --data" in said
    assert not (tmp_path / "own").exists()


def test_all_that_identifies_a_patient_is_one_list_and_one_more_command(tmp_path: Path, capsys: Capture) -> None:
    data, to = made.make_dicom(tmp_path / "data"), tmp_path / "own"
    assert init(data, to) == 2 and not to.exists()
    said = capsys.readouterr().err
    words = ["pseudonyms", "patient", "dates", "institution", "pixels"]
    assert all(f"{word:13} {MEANING[word]}" in said for word in words), said  # type: ignore[index]
    (line,) = [line for line in said.splitlines() if "phi.checked=" in line]
    assert f"'phi.checked=[{','.join(words)}]'" in line
    assert "Test^Person" not in said and "ACC0" not in said
    settings = [
        f"phi.checked=[{','.join(words)}]",
        "phi.note=A. Reader looked at all files.",
        "phi.status=deidentified",
    ]
    assert init(data, to, *settings) == 0
    _, card = written(to)
    assert card["phi"]["checked"] == words and card["splits"]["by"] == "patient"
    assert main(["validate", str(to / "recipe.yaml")]) == 0


def test_a_setting_that_the_card_lacks_is_given_behind_the_command(tmp_path: Path, capsys: Capture) -> None:
    import nibabel
    import numpy as np

    data = made.make_volumes(tmp_path / "data", 4)
    for path in data.rglob("*.nii.gz"):
        image: Any = nibabel.load(path)
        image.header.set_sform(None, 0)
        image.header.set_qform(None, 0)
        header = image.header.copy()
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, header), path)
    assert init(data, tmp_path / "own") == 2
    said = capsys.readouterr().err
    assert "4 of 4 samples cannot be read" in said and "nifti: {orientation: LAS}" in said
    settings = ["reader.nifti.orientation=RAS", "reader.mask_file.nifti.orientation=RAS"]
    assert init(data, tmp_path / "own", *settings) == 0
    assert written(tmp_path / "own")[1]["reader"]["nifti"] == {"length": "mm", "orientation": "RAS"}


def test_a_table_alone_is_looked_at_with_its_folder(tmp_path: Path) -> None:
    data = made.make_captions(tmp_path / "data")
    assert main(["init", "--csv", str(data / "captions.csv"), "--to", str(tmp_path / "own")]) == 0
    assert written(tmp_path / "own")[1]["reader"]["report"] == "{caption}"


def test_splits_of_the_archive_are_kept(tmp_path: Path, capsys: Capture) -> None:
    data = made.make_classes(tmp_path / "data", 6, ("train", "test"))
    assert init(data, tmp_path / "own") == 0
    assert "no samples for val: the archive has splits of its own without it" in capsys.readouterr().out
    recipe, card = written(tmp_path / "own")
    assert card["splits"]["by"] == "column" and "validate" not in recipe["stages"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "more", "metric"),
    [
        (made.make_table, [], "auroc"),
        (made.make_masks, [], "dice"),
        (made.make_questions, [], "accuracy"),
        (made.make_captions, ["--for", "captions"], "image_to_text_top1"),
        (made.make_volumes, [], "dice"),
        (lambda root: made.make_slides(root, 24), [], "auroc"),
        (
            lambda root: made.make_dicom(root, is_identified=False),
            ["phi.checked=[pseudonyms]", "phi.note=made"],
            "auroc",
        ),
    ],
)
def test_a_folder_becomes_an_evaluated_and_exported_model(
    make: Any, more: list[str], metric: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    to, runs = tmp_path / "own", tmp_path / "runs"
    assert init(make(tmp_path / "data"), to, *more) == 0
    (stage,) = written(to)[0]["stages"]
    short = [f"stages.{stage['name']}.steps=4", f"stages.{stage['name']}.validate.every=2", "evaluate.bootstrap=20"]
    assert main(["train", str(to / "recipe.yaml"), "--runs", str(runs), *short]) == 0
    run = next(runs.glob("*/recipe.resolved.yaml")).parent
    assert main(["evaluate", str(run)]) == 0
    assert metric in {row["metric"] for row in json.loads((run / "evaluate" / "results.json").read_text())}
    assert main(["report", str(run)]) == 0
    assert main(["export", str(run), "--to", str(tmp_path / "model")]) == 0
    assert "parity proven" in capfd.readouterr().out
