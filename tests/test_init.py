"""`medvlm init`: from a table of one's own to a tuned model, as a new user would type it."""

from __future__ import annotations

import csv
import json
import shutil
import stat
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medvlm import api
from medvlm.archive.packing.deal import hash_name
from medvlm.archive.packing.stored import make_stored
from medvlm.cli import main
from medvlm.commands import first_splits
from medvlm.commands.first_recipe import TableColumns, TableRow, make_card
from medvlm.core.card import Splits, load_card
from medvlm.core.config import component
from medvlm.core.content import ALL_SPLITS
from medvlm.core.errors import DataError, RecipeError
from medvlm.io.images import encode_png
from medvlm.io.opening import open_shards
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.recipe.load import load

SHORT = [
    "stages.instruct.steps=2",
    "stages.instruct.batch=4",
    "stages.instruct.accumulate=1",
    "stages.instruct.validate=null",
    "stages.instruct.keep=last",
]
ON_CPU = ["engine.device=cpu", "engine.precision=32-true", "engine.recompute=[]", "engine.workers=0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen3_vl", tmp_path_factory.mktemp("ready") / "model")


def table(folder: Path, **changes: str) -> Path:
    """30 pictures of 10 patients, bright or dark; changes: of the last row."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for n in range(30):
        (folder / f"{n}.png").write_bytes(encode_png((rng.integers(0, 60, (40, 48)) + 120 * (n % 2)).astype(np.uint8)))
        rows.append(
            {
                "file": f"{n}.png",
                "who": f"p{n // 3}",
                "asked": "Is it bright?",
                "said": ("no", "yes")[n % 2],
                "text": f"A picture that is {('dark', 'bright')[n % 2]}, number {n}.",
            }
        )
    rows[-1].update(changes)
    with (folder / "own data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder / "own data.csv"


def typed(model: Path | str, csv_file: Path, to: Path, **columns: str) -> list[str]:
    asked: dict[str, str] = {"image": "file", "question": "asked", "answer": "said", "patient": "who", **columns}
    return [
        "init",
        "--model",
        str(model),
        "--csv",
        str(csv_file),
        "--to",
        str(to),
        *(word for name, column in asked.items() if column for word in (f"--{name}", column)),
    ]


def test_five_words_lead_to_a_tuned_model(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed(model, table(tmp_path / "data"), tmp_path / "own")) == 0
    said = capsys.readouterr().out
    assert "30 rows, 30 images; patients per split: train" in said and "no --patient" not in said
    salt = tmp_path / "own" / "salt"
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600 and len(salt.read_text().strip()) == 64
    assert main(["validate", str(tmp_path / "own" / "recipe.yaml")]) == 0
    assert (
        main(["train", str(tmp_path / "own" / "recipe.yaml"), "--runs", str(tmp_path / "runs"), *SHORT, *ON_CPU]) == 0
    )
    run = tmp_path / "runs" / "own_data"
    assert json.loads((run / "instruct" / "stage.json").read_text())["step"] == 2
    shards = open_shards(next(path.parent for path in tmp_path.rglob("packed.json")))
    patients = {
        split: {shards.read(split, i)[0].patient for i in range(shards.count(split))} for split in shards.splits
    }
    assert set(patients) == {"train", "val", "test"} and sum(map(len, patients.values())) == 10 == len(
        set.union(*patients.values())
    )
    truth: Any = shards.read("train", 0)[0].questions[0].truth
    assert truth.task == "choice" and set(truth.choices) == {"yes", "no"}
    kept = [path for path in run.rglob("*") if path.is_file() and path.name != "places.json"]
    assert not [path.name for path in kept if salt.read_bytes().strip() in path.read_bytes()], (
        "the secret has left its file"
    )


def test_without_patients_it_says_what_that_means(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own cases"
    assert main(typed(model, table(tmp_path / "data"), own, patient="")) == 0
    said = capsys.readouterr().out
    assert "no --patient: images are split one by one" in said
    assert f"next: medvlm validate '{own / 'recipe.yaml'}'; medvlm plan" in said  # as a shell reads it
    assert yaml.safe_load((own / "card.yaml").read_text())["splits"]["by"] == "image"


@pytest.mark.parametrize("patient", ["who", ""])
def test_its_splits_are_those_of_packing(
    patient: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two equal pictures and one that cannot be read, too; patients are numbers in different forms."""
    csv_file = table(tmp_path / "data")
    shutil.copyfile(tmp_path / "data" / "0.png", tmp_path / "data" / "1.png")
    (tmp_path / "data" / "2.png").write_bytes(b"no picture")
    csv_file.write_text(csv_file.read_text().replace(",p0,", ",07,").replace("1.png,07", "1.png,7.0"))
    assert main(typed(model, csv_file, tmp_path / "own", patient=patient)) == 0
    said = capsys.readouterr().out
    card = load_card(tmp_path / "own" / "card.yaml").add_secret("a secret of this test")
    found: Counter[str] = Counter()
    patients: dict[str, set[str]] = {}
    for raw in component("archive.readers", "table").read(card.reader, tmp_path / "data"):
        with suppress(DataError):
            stored = make_stored(raw, card)
            found[stored.facts.split] += 1
            patients.setdefault(stored.facts.split, set()).add(stored.patient)
    if patient:
        found[
            next(split for split, whom in patients.items() if hash_name("7", card.naming_salt, "patient") in whom)
        ] += 1
        assert f"patients per split: {', '.join(f'{split} {len(patients[split])}' for split in ALL_SPLITS)}; " in said
    else:
        assert "1 images cannot be read and will be quarantined" in said
    assert f"images per split: {', '.join(f'{split} {found[split]}' for split in ALL_SPLITS)}" in said


def test_many_images_are_not_read_and_their_splits_are_about_right(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_splits, "MAX_READ", 29)
    assert main(typed(model, table(tmp_path / "data"), tmp_path / "own", patient="")) == 0
    assert "images per split: train 24, val 3, test 3 (about; known once they are packed)" in capsys.readouterr().out


BRIGHT, SIDE, ORGAN = "Is it bright?", "Which side?", "Which organ?"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({BRIGHT: "yes no"}, {"choices": ["no", "yes"]}),
        ({BRIGHT: "Yes yes no"}, {"choices": ["no", "yes"], "lower": True}),
        ({SIDE: "Left Right"}, {"choices": ["Left", "Right"]}),
        ({BRIGHT: "yes no", "Is it dark?": "no"}, {"choices": ["no", "yes"]}),
        ({BRIGHT: "yes", "Is it dark?": "no"}, {"choices": ["no", "yes"]}),
        ({BRIGHT: "yes no", SIDE: "left right"}, {"choice_lists": [["left", "right"], ["no", "yes"]]}),
        ({BRIGHT: "yes no", ORGAN: " ".join(f"organ{n}" for n in range(20))}, {"choices": ["no", "yes"]}),
        ({ORGAN: " ".join(f"organ{n}" for n in range(20))}, {}),
        ({f"Question {n}?": f"answer{n % 3}" for n in range(20)}, {}),
        ({ORGAN: "one-" * 20}, {}),
    ],
)
def test_a_question_offers_the_answers_to_it_and_not_those_to_others(
    answers: dict[str, str], expected: dict[str, Any]
) -> None:
    rows = [
        TableRow("", f"{n}.png", question, answer, "")
        for question, said in answers.items()
        for answer in said.split()
        for n in range(3)
    ]
    columns = TableColumns("file", "asked", "said")
    (made,) = make_card("own", "own.csv", "image", columns, rows, Splits(by="image"))["reader"]["questions"]
    template = {"template": "{asked}"} if len(answers) > 1 else {}
    assert made == {"text": "{asked}", "answer": "{said}", **template, **expected}


def test_captions_make_a_dual_encoder(tmp_path: Path) -> None:
    from transformers import SiglipConfig

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    SiglipConfig(
        text_config={**small, "max_position_embeddings": 16},
        vision_config={**small, "image_size": 32, "patch_size": 16},
    ).save_pretrained(tmp_path / "siglip")
    assert (
        main(
            typed(
                tmp_path / "siglip", table(tmp_path / "data"), tmp_path / "own", question="", answer="", captions="text"
            )
        )
        == 0
    )
    (stage,) = load(tmp_path / "own" / "recipe.yaml").recipe.stages
    assert (stage.kind, stage.loss.kind, stage.text.max_tokens, stage.text.overlong) == (
        "contrastive",
        "siglip",
        16,
        "cut",
    )


def test_captions_make_a_model_that_answers_write_them(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"question": "", "answer": "", "captions": "text"}
    assert main(typed(model, table(tmp_path / "data"), tmp_path / "own", **columns)) == 0
    loaded = load(tmp_path / "own" / "recipe.yaml")
    assert [stage.kind for stage in loaded.recipe.stages] == ["supervised"]
    (question,) = loaded.cards["table"].reader.questions
    assert (question.answer, question.task, loaded.cards["table"].reader.report) == ("{text}", "report", "{text}")
    assert main(["validate", str(tmp_path / "own" / "recipe.yaml")]) == 0
    assert "evaluates on table:test against blind, shuffled" in capsys.readouterr().out


def test_a_model_that_takes_neither_is_refused_with_those_that_do(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    columns = {"question": "", "answer": "", "captions": "text"}
    assert main(typed(tmp_path / "bert", table(tmp_path / "data"), tmp_path / "own", **columns)) == 2
    assert "unsupported model_type 'bert' (expected one of clip, siglip" in capsys.readouterr().err


@pytest.mark.parametrize(
    "columns, changes, message",
    [
        ({"answer": "sayd"}, {}, "no column 'sayd', did you mean 'said'?"),
        ({}, {"file": "none.png"}, "1 of 30 rows cannot be used (line 31: the file in column file does not exist)"),
        ({}, {"said": " "}, "1 of 30 rows cannot be used (line 31: no value in column said)"),
        ({"captions": "text"}, {}, "give --question and --answer, or --captions"),
        ({"answer": ""}, {}, "give --question and --answer, or --captions"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_place(
    columns: Any, changes: Any, message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed(model, table(tmp_path / "data", **changes), tmp_path / "own", **columns)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("kept", [0, 1])
def test_a_table_without_rows_is_refused(kept: int, model: Path, tmp_path: Path, capsys: Any) -> None:
    csv_file = table(tmp_path / "data")
    csv_file.write_text("".join(csv_file.read_text().splitlines(True)[:kept]))
    assert main(typed(model, csv_file, tmp_path / "own")) == 2
    assert "own data.csv: has no rows; expected a line with the names of the columns" in capsys.readouterr().err
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    "columns",
    [
        {"image": "", "captions": "text"},
        {"image": "", "question": "asked", "answer": "said"},
        {"image": "file"},
        {"image": "file", "question": "asked"},
        {"image": "file", "question": "asked", "answer": "said", "captions": "text"},
    ],
)
def test_columns_that_make_no_samples_are_refused(columns: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"init: give --(image|question)"):
        api.init("google/medgemma-4b-it", table(tmp_path / "data"), to=tmp_path / "own", **columns)
    assert not (tmp_path / "own").exists()


def test_a_model_that_is_not_there_says_how_to_get_it_or_to_point_to_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed("nobody/knows-this", table(tmp_path / "data"), tmp_path / "own")) == 2
    said = capsys.readouterr().err
    assert "hf download nobody/knows-this" in said and "hf auth login" in said and "write its path" in said


def test_a_published_model_is_taken_without_a_hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed("google/medgemma-4b-it", table(tmp_path / "data"), tmp_path / "own")) == 0
    assert "google/medgemma-4b-it: access was not checked" in capsys.readouterr().out
    assert load(tmp_path / "own" / "recipe.yaml").recipe.model.pretrained == "google/medgemma-4b-it"
    assert main(typed("google/medgemma-4b-it", tmp_path / "data" / "own data.csv", tmp_path / "own")) == 2, (
        "what is there is not written over"
    )
