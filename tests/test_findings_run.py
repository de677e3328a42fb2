"""Sets of findings from an archive to a report: packed, trained, reinforced, evaluated, shown and rehearsed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medvlm import cli
from medvlm.commands.dry_run import dry_run
from medvlm.core.run import RunFolder
from medvlm.io.images import encode_png
from medvlm.io.shards import RECEIPT
from medvlm.recipe.load import load, load_run, validate
from tests.tiny_run import CARD, INSTRUCT, REASON, recipe, trained, written

pytestmark = pytest.mark.slow

ONTOLOGY = {
    "findings": {
        "lung opacity": {"synonyms": ["opacity"]},
        "edema": {"parents": ["lung opacity"]},
        "pleural effusion": {"synonyms": ["effusion"]},
    }
}
SETS = ["No Finding", "Edema", "Effusion|Edema", "Effusion"]
FILMS: dict[str, Any] = {
    **CARD,
    "access": "open",
    "splits": {"by": "patient", "ratios": {"train": 0.6, "val": 0.2, "test": 0.2}},
    "reader": {
        "kind": "table",
        "file": "table.csv",
        "key": "{id}",
        "patient": "{id}",
        "media": [{"file": "{id}.png", "kind": "film"}],
        "questions": [
            {
                "text": "Which findings are there?",
                "answer": "{findings}",
                "template": "findings",
                "task": {"kind": "findings", "ontology": "chest.yaml"},
            }
        ],
    },
}
ASKED = {"tasks": ["findings"], "questions": 1, "steps": 2, "save_every": 2, "batch": 4}


def write_archive(root: Path) -> None:
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["id,findings"]
    for number in range(40):
        (root / f"f{number}.png").write_bytes(encode_png(rng.integers(0, 255, (40, 40), np.uint8)))
        lines.append(f"f{number},{'dragon' if number == 7 else SETS[number % 4]}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("findings")
    write_archive(folder / "archive")
    (folder / "chest.yaml").write_text(yaml.safe_dump(ONTOLOGY))
    reason = {key: value for key, value in REASON.items() if key != "questions"}
    stages = [
        {**INSTRUCT, **ASKED, "accumulate": 1},
        {**reason, **{key: value for key, value in ASKED.items() if key != "questions"}, "rewards": {"findings": 1.0}},
    ]
    data = {"films": {"card": "card.yaml", "root": str(folder / "archive")}}
    evaluate = {"on": ["films:test"], "bootstrap": 20, "max_new_tokens": 12}
    return written(folder, recipe(stages=stages, data=data, evaluate=evaluate), FILMS)


@pytest.fixture(scope="module")
def run(path: Path) -> RunFolder:
    run = trained(path, path.parent / "runs")
    assert cli.main(["evaluate", str(run.root)]) == 0
    return run


def test_a_recipe_is_valid_and_its_run_has_the_ontology(path: Path, run: RunFolder) -> None:
    assert "a valid recipe" in validate(path)[0]
    (path.parent / "chest.yaml").rename(path.parent / "moved.yaml")
    try:
        again = load_run(run.root)
    finally:
        (path.parent / "moved.yaml").rename(path.parent / "chest.yaml")
    assert again.recipe_hash == load(path).recipe_hash
    assert "pleural effusion" in (run.root / "cards" / "films.yaml").read_text()


def test_sets_are_scored_beside_the_best_constants(run: RunFolder) -> None:
    rows = {row["metric"]: row for row in json.loads(run.results.read_text()) if row["task"] == "findings"}
    assert {"set_f1", "exact", "micro_f1", "macro_f1", "macro_f1:findings:pleural effusion"} <= rows.keys()
    assert rows["set_f1"]["baselines"]["majority"] > 0.3 and {"blind", "shuffled"} <= rows["set_f1"]["baselines"].keys()
    records = [json.loads(line) for line in run.answers.read_text().splitlines()]
    assert {record["truth"]["answer"] for record in records} <= {
        "no finding", "edema", "edema; pleural effusion", "pleural effusion",
    }  # fmt: skip
    total = next(row for row in json.loads(run.results.read_text()) if row["task"] == "reward")
    assert total["value"] == pytest.approx(rows["set_f1"]["value"]), "the reward is the score"


def test_a_text_that_the_ontology_does_not_know_is_left_out_and_counted(path: Path, run: RunFolder) -> None:
    (receipt,) = (path.parent / "runs" / "shards").glob(f"*/{RECEIPT}")
    assert any("findings" in reason for reason in json.loads(receipt.read_text())["left_out"])


def test_the_report_shows_sets(run: RunFolder) -> None:
    assert cli.main(["report", str(run.root)]) == 0
    page = run.report.read_text()
    assert "F1 of sets" in page and "pleural effusion" in page


@pytest.mark.parametrize(
    "overrides",
    [[], ["data.films.root=''"], ["data.films.root=''", "data.films.card=data_cards/cxr_cohen_findings.yaml"]],
    ids=["archive", "made up", "shipped card"],
)
def test_a_dry_run_goes_through_all_of_it(overrides: list[str], path: Path, tmp_path: Path) -> None:
    done = {line.what: line.done for line in dry_run(load(path, overrides), tmp_path, lambda line: None)}
    assert all(done[what] for what in ("data", "stage instruct", "stage reason", "evaluate", "export", "report")), done
    assert "findings" in done["evaluate"]
