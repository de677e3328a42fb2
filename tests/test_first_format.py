"""Files of an older version: shards, a stopped run, saved evaluations and exports of 2cc587c are read, and go on.

fixtures/make_first_format.py wrote them and says what they hold. Answers and the order of the samples are compared
exactly, numbers to 1e-5: their last bits depend on the CPU, and 2cc587c once differed from itself in them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.cli import EXIT_DONE, main
from medvlm.commands.export import load_trained
from medvlm.core.run import RunFolder
from medvlm.core.sample import truth_from_json
from medvlm.evaluate.saved import rescore
from medvlm.recipe.load import load_run
from tests.fixtures.make_first_format import FOLDER, STOPPED, pull_film, read_embedding
from tests.fixtures.unpack import unpack

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
    return read


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files in the current folder: the run says where its shards are relative to it."""
    unpack(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(list(words)) == EXIT_DONE
    finally:
        torch.set_num_threads(threads)


def is_read_better(row: Any) -> bool:
    """More answers are read as counts and boxes since then."""
    name = row["task"], row["metric"]
    return row["task"] == "count" or name in {("boxes", "unreadable"), *(("reward", each) for each in READS_COUNTS)}


READS_COUNTS = "count", "total", "format"


LATER = ("report", "image")
"""Groups of rows that did not exist then."""
LATER_ROWS = ("boxes ap50",)
"""How other rows begin that did not."""


def list_measured(rows: Sequence[Any], *baselines: str) -> dict[str, dict[str, Any]]:
    """What a row measures. Since then intervals hold for few patients, other images are those of another patient, the
    constant of a reward is the one that earns most. Of rows that are read better only n is listed, and of LATER ones
    nothing. Retrieval had recall at 1 only."""
    return {
        f"{row['task']} {row['metric']}": {
            "n": row["n"],
            **({} if is_read_better(row) else {"value": row["value"]}),
            **{
                who: row["baselines"].get(who)
                for who in baselines
                if not is_read_better(row) and not (row["task"] == "reward" and who == "majority")
            },
        }
        for row in rows
        if row["task"] not in LATER
        and not f"{row['task']} {row['metric']}".startswith(LATER_ROWS)
        and not (row["task"] == "retrieval" and not row["metric"].endswith("_top1"))
    }


LATER_TERMS = {"padding", "entropy", "cut"}
"""Terms that were not logged then."""


def read_rows(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "evaluate" / "results.json").read_text())
    return rows


def test_stopped_stages_resume_with_the_same_samples_and_losses(work: Path, expected: dict[str, Any]) -> None:
    """Contrastive, supervised with adapters and dropout, GRPO with a reference: each goes on from its checkpoint."""
    metrics = work / "runs/first/metrics.jsonl"
    before = len(metrics.read_text().splitlines())
    call("train", "recipe.yaml")
    records = [json.loads(line) for line in metrics.read_text().splitlines()[before:]]
    steps = [record for record in records if "loss" in record]
    assert {record["stage"] for record in steps} == set(STOPPED), "the finished stages are reused"
    for found, old in zip(steps, expected["steps"], strict=True):
        where = f"{old['stage']}, step {old['step']}"
        # The hash of a step's samples is not compared: it was of their order too. The losses tell other samples.
        assert (found["stage"], found["step"]) == (old["stage"], old["step"]), where
        for name in ("loss", "grad_norm", "lr"):
            assert found[name] == pytest.approx(old[name], rel=TOLERANCE, abs=TOLERANCE), f"{where}: {name}"
        known = {name: value for name, value in found["terms"].items() if name not in LATER_TERMS}
        assert known == pytest.approx(old["terms"], rel=TOLERANCE, abs=TOLERANCE), where


def test_a_run_is_evaluated_on_its_shards_with_the_same_answers_and_rows(work: Path, expected: dict[str, Any]) -> None:
    saved = {name: (work / "runs/first/evaluate" / name).read_text() for name in ("answers.jsonl", "retrieval.jsonl")}
    for name in ("answers.jsonl", "retrieval.jsonl", "results.json"):
        (work / "runs/first/evaluate" / name).unlink()
    (work / "runs/first/evaluate/protocol.json").unlink()
    call("evaluate", "runs/first")
    asked_alike = "blind", "majority", "chance"
    assert list_measured(read_rows(work / "runs/first"), *asked_alike) == list_measured(expected["rows"], *asked_alike)
    for name, text in saved.items():
        old = [json.loads(line) for line in text.splitlines()]
        new = [json.loads(line) for line in (work / "runs/first/evaluate" / name).read_text().splitlines()]
        new = [record for record in new if record.get("direction") != "image_to_image"]
        assert len(new) == len(old) > 0
        for found, before in zip(new, old, strict=True):
            if "truth" in before:  # it may say more now, but nothing else
                now, then = (truth_from_json(each["truth"]).to_json() for each in (found, before))
                assert {key: now[key] for key, value in then.items() if value} == {k: v for k, v in then.items() if v}
            same = before.keys() - {"truth", "shuffled", "constants", "score", "rewards"}
            same -= {"key", "cluster"} if before.get("direction") == "text_to_image" else set()  # now of a patient
            assert {key: found[key] for key in same} == {key: before[key] for key in same}, name


def test_saved_records_are_scored_to_the_same_rows(work: Path, expected: dict[str, Any]) -> None:
    rows = rescore(work / "runs/first/evaluate")
    names = "blind", "shuffled", "majority", "chance"
    assert list_measured(rows, *names) == list_measured(expected["rows"], *names)
    assert {row["task"] for row in rows} == {
        "vqa",
        "count",
        "boxes",
        "retrieval",
        "reward",
        "image",
    }


def test_an_export_takes_the_rows_of_its_own_model(work: Path, expected: dict[str, Any]) -> None:
    """The run was evaluated after `instruct`; retrieval was asked of the model of `pair`."""
    loaded, run = load_run(work / "runs/first"), RunFolder(work / "runs/first")
    old = [row for row in expected["rows"] if row["task"] != "retrieval"]
    assert list_measured(load_trained(loaded, run).results, "blind") == list_measured(old, "blind")
    assert list(load_trained(loaded, run, "pair").results) == []


def test_an_export_answers_and_is_evaluated_as_before(
    work: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [word for question in expected["questions"] for word in ("--question", question)]
    capsys.readouterr()
    call("chat", "vlm", pull_film(work), "--kind", "film", *asked)
    assert capsys.readouterr().out.splitlines() == expected["answers"]
    call("evaluate", "vlm", "--on", "tiny:test")
    found, old = (list_measured(rows, "blind") for rows in (read_rows(work / "vlm"), expected["rows_of_export"]))
    assert found == old


def test_an_export_embeds_as_before(work: Path, expected: dict[str, Any]) -> None:
    call("embed", "dual", pull_film(work), "--kind", "film", "--to", "film.parquet")
    assert read_embedding(work / "film.parquet") == pytest.approx(expected["embedding"], abs=TOLERANCE)
