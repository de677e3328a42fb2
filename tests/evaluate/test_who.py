"""Whom `medvlm evaluate` asks: a run, a recipe without stages, a folder and a server give the same rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvlm import cli
from medvlm.commands.evaluate import evaluate
from medvlm.commands.export import export
from medvlm.compositions._open import open_model
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.protocols import Row
from medvlm.core.run import RunFolder
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.recipe.load import load
from tests.openai_server import CutOff, ask_model, complete, serve
from tests.tiny_run import CARD, recipe, written

LIMIT = 6
FILMS = {**CARD, "reader": {"kind": "phantom", "films": 24, "film_px": 96}}
EVALUATE = {"on": ["films:test"], "max_new_tokens": LIMIT, "bootstrap": 50, "protocols": ["answers"]}
ON_FILMS = ("evaluate.max_new_tokens=6", "evaluate.bootstrap=50", "evaluate.protocols=[answers]")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder: a model, and a recipe that evaluates it as it is."""
    folder = tmp_path_factory.mktemp("who")
    save_tiny("qwen3_vl", folder / "model")
    model = {"pretrained": "model"}
    written(folder, recipe(name="asis", model=model, stages=[], evaluate=EVALUATE), FILMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def rows(place: Path) -> list[Row]:
    return evaluate("recipe.yaml")


def read_answers(name: str) -> list[Any]:
    """Question, answer and what it is scored against, of each record."""
    found = [json.loads(line) for line in (Path("runs") / name / "evaluate/answers.jsonl").read_text().splitlines()]
    assert len({record["answer"] for record in found}) > 3
    return [(each["question"], each["answer"], each["truth"], each["score"]) for each in found]


def strip(rows: list[Row]) -> list[dict[str, Any]]:
    """Without what they were measured with: recipes and models have other names and hashes."""
    return [{key: value for key, value in row.items() if key != "measured"} for row in rows]


def test_a_recipe_without_stages_evaluates_its_model_as_it_is(place: Path, rows: list[Row]) -> None:
    assert {row["task"] for row in rows} == {"vqa", "count", "boxes"}
    run = RunFolder(place / "runs" / "asis")
    settings = json.loads((run.answers.parent / "protocol.json").read_text())[0]
    stated = settings["models"]["answers"]
    assert stated["model"] == "model" and len(stated["files"]) == 16
    assert (stated["precision"], stated["max_new_tokens"]) == ("float32", LIMIT)
    assert json.loads(run.lineage.read_text())["sources"]["films"]["card"]["name"] == "tiny"
    assert evaluate(run.root) == rows  # the folder is evaluated like any other run
    with pytest.raises(CheckpointError, match="asis: was evaluated as it is, so it has no stage; use its model itself"):
        export(run, place / "exported")


def test_a_model_by_its_folder_gives_the_same_rows(place: Path, rows: list[Row]) -> None:
    assert strip(evaluate("model", ["card.yaml:test"], overrides=ON_FILMS)) == strip(rows)
    assert read_answers("model") == read_answers("asis")


def test_a_spread_model_and_one_in_another_precision_say_so(place: Path, rows: list[Row]) -> None:
    """Spread by accelerate, the model is asked through its own processor; its boxes are then not known."""
    spread = evaluate("model", ["card.yaml:test"], overrides=[*ON_FILMS, "name=spread", "evaluate.spread=true"])
    assert strip(spread) == [row for row in strip(rows) if row["task"] != "boxes"]
    evaluate("model", ["card.yaml:test"], overrides=[*ON_FILMS, "name=brain", "evaluate.precision=bfloat16"])
    settings = json.loads((place / "runs/brain/evaluate/protocol.json").read_text())[0]
    assert settings["models"]["answers"]["precision"] == "bfloat16"


def test_a_model_behind_a_server_gives_the_same_rows(place: Path, rows: list[Row]) -> None:
    (model,) = open_model("model", max_new_tokens=LIMIT)
    with serve(ask_model(model, LIMIT)) as url:
        found = evaluate(url, ["card.yaml:test"], overrides=[*ON_FILMS, "name=served", "model.boxes.codec=bbox_2d"])
        assert strip(found) == strip(rows)
        assert read_answers("served") == read_answers("asis")
        settings = json.loads((place / "runs/served/evaluate/protocol.json").read_text())[0]
        assert settings["models"]["answers"] == {
            "server": url.removeprefix("http://").removesuffix("/v1"), "model": "tiny", "max_new_tokens": LIMIT
        }  # fmt: skip
        without = evaluate(url, ["card.yaml:test"], overrides=[*ON_FILMS, "name=unplaced"])
    assert strip(without) == [row for row in strip(rows) if row["task"] != "boxes"]
    left_out = json.loads((place / "runs/unplaced/evaluate/protocol.json").read_text())[0]["left_out"]
    (reason,) = left_out
    assert "how this model writes boxes is not known; set model.boxes.codec" in reason


def test_a_folder_of_shards_is_enough(place: Path, rows: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    (shards,) = (place / "runs/shards").glob("tiny-*")
    assert cli.main(["evaluate", "model", "--on", f"{shards}:test", *ON_FILMS, "name=sharded"]) == 0
    assert strip(json.loads((place / "runs/sharded/evaluate/results.json").read_text())) == strip(rows)
    assert "tiny:test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("who", "words", "why"),
    [
        ("runs/nothing", (), "runs/nothing: there is no such run folder or model folder"),
        ("runs/nothing", ("--on", "card.yaml:test"), "runs/nothing: there is no such run folder or model folder"),
        ("nothing", (), "is no run folder and no recipe; if it is a model, say what to evaluate it on: --on"),
        (
            "model",
            ("--on", "nocard:test"),
            "a data card, and there is no card 'nocard.yaml'",
        ),
        ("model", ("--on", "runs:test"), "--on runs: has no shards that medvlm packed; pack its files first"),
        ("nomodel", ("--on", "card.yaml:test", "name=new"), "neither a run nor a vision-language model"),
        ("runs/asis", ("seed=3",), "would change what was trained; of a run, only evaluate"),
        ("runs/asis", ("--on", "flims:test"), "no such source, did you mean 'films'"),
        ("recipe.yaml", ("model.pretrained=another",), "is of another model; give this one another name"),
        ("http://scanner.hospital/v1", ("--on", "card.yaml:test"), "is another machine, which would get the images"),
        ("http://127.0.0.1:9/v1", ("--on", "card.yaml:test"), "no answer ("),
    ],
)
def test_what_cannot_be_evaluated_costs_a_line_and_no_folder(
    who: str, words: tuple[str, ...], why: str, place: Path, rows: list[Row], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("medvlm.core.connection.TRIES", 1)
    before = sorted(place.rglob("*"))
    assert cli.main(["evaluate", who, *words]) == 2
    assert why in capsys.readouterr().err
    assert sorted(place.rglob("*")) == before


def test_such_a_recipe_is_not_trained_or_planned(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("train", "plan"):
        assert cli.main([verb, "recipe.yaml"]) == 2
        assert "stages: is empty, so nothing is trained; `medvlm evaluate`" in capsys.readouterr().err
    assert cli.main(["validate", "recipe.yaml"]) == 0
    assert "no stages: `medvlm evaluate` evaluates the model as it is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "stages: is empty, and the model is not ready to be evaluated as it is; add a stage"),
        ({"model": {"pretrained": "model"}, "evaluate": {}}, "evaluate.on: is empty, and there is no stage either"),
        (
            {
                "model": {"composition": {"kind": "server", "url": "http://localhost/v1"}},
                "stages": recipe()["stages"][1:2],
            },
            "model.composition: is a model behind a server, which cannot be trained; remove `stages`",
        ),
    ],
)
def test_what_a_recipe_lacks_is_said(changes: dict[str, Any], why: str, place: Path) -> None:
    whole = recipe(**{"stages": [], "evaluate": EVALUATE, **changes})
    (place / "wrong.yaml").write_text(yaml.safe_dump(whole))
    with pytest.raises(RecipeError, match=why.partition(":")[2].strip()):
        load(place / "wrong.yaml")


@pytest.mark.slow
def test_a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_named(
    monkeypatch: pytest.MonkeyPatch, place: Path, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("medvlm.core.connection.time.sleep", pauses.append)
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-server")
    seen, replies = [], iter([(503, "busy"), (429, "slow down"), (200, CutOff("half"))])

    def answer(body: dict[str, Any]) -> Any:
        seen.append(body["key"])
        return next(replies, complete("left"))

    for name in ("http_proxy", "HTTP_PROXY"):  # another machine, which must not get the images
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    few = [*ON_FILMS, "evaluate.samples=1", "model.composition.parallel=1", "name=busy"]
    with serve(answer) as url:
        evaluate(url, ["card.yaml:test"], overrides=few)
        evaluate(url, ["card.yaml:test"], overrides=[*few, "model.composition.timeout_s=9"])  # it is the same model
        assert pauses == [1, 2, 4] and set(seen) == {"Bearer of-the-server"}
        assert "of-the-server" not in "".join(
            p.read_text() for p in Path("runs/busy").rglob("*.*") if p.suffix != ".png"
        )
    with serve(lambda body: (404, "no such model")) as url, pytest.raises(RecipeError, match=r"404 .*no such model"):
        evaluate(url, ["card.yaml:test"], overrides=[*few[:-1], "name=gone"])
    with (
        serve(lambda body: (200, "<html>")) as url,
        pytest.raises(RecipeError, match="is not JSON; is the address right"),
    ):
        evaluate(url, ["card.yaml:test"], overrides=[*few[:-1], "name=odd"])
    parts = {"choices": [{"message": {"content": [{"type": "text", "text": "left"}]}}]}
    with (
        serve(lambda body: (200, parts)) as url,
        pytest.raises(RecipeError, match=r"another form .*\"type\": \"text\""),
    ):
        evaluate(url, ["card.yaml:test"], overrides=[*few[:-1], "name=parts"])
    nothing = {"choices": [{"message": {"content": None}}]}
    with serve(lambda body: (200, nothing)) as url:
        capsys.readouterr()
        evaluate(url, ["card.yaml:test"], overrides=[*few[:-1], "name=silent"])
    found = re.search(r"tiny:test: (\d+) of (\d+) answers are empty", capsys.readouterr().out)
    assert found is not None and found[1] == found[2] != "0"
    with serve(answer, ("a", "b")) as url, pytest.raises(RecipeError, match=r"say which .* has a, b"):
        evaluate(url, ["card.yaml:test"], overrides=[*few[:-1], "name=many"])
