"""Evidence of a run: what is in it, what never is, and what a check of it finds."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvlm.cli import main
from medvlm.commands.evidence import hash_file
from medvlm.evaluate import measures
from medvlm.evaluate.saved import rescore
from tests.fixtures.unpack import unpack

SPLIT = "tiny:test"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = unpack(tmp_path_factory.mktemp("evidence"))
    # The answers of an earlier release, scored by this one.
    evaluated = folder / "runs/first/evaluate"
    (evaluated / "results.json").write_text(json.dumps(rescore(evaluated)))
    return folder


@pytest.fixture(scope="module")
def pack(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("packs") / "pack"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        assert main(["evidence", "runs/first", "--to", str(to)]) == 0
    return to


@pytest.fixture
def run(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, to plant something in."""
    shutil.copytree(world / "runs/first", tmp_path / "runs/first")
    shutil.copytree(world / "shards", tmp_path / "shards")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs/first"


def read_all(folder: Path) -> str:
    return "\n".join(path.read_text("utf-8", "replace") for path in sorted(folder.rglob("*")) if path.is_file())


def test_it_has_what_the_results_come_from_and_checks_out_elsewhere(
    pack: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pack, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "elsewhere"]) == 0
    out = capsys.readouterr().out
    assert "are unchanged" in out and out.count("same bytes") == 2
    for what in ("model        not checked", "data         not checked", "training     not checked"):
        assert what in out
    manifest = json.loads((pack / "evidence.json").read_text())
    assert {"evaluate/results.json", "evaluate/answers.jsonl", "report.html", "cards/tiny.yaml"} <= manifest[
        "files"
    ].keys()
    assert manifest["written_by"]["environment"]["packages"]["torch"] and not manifest["withheld"]
    assert json.loads((pack / "evaluate/results.json").read_text()) == rescore(world / "runs/first/evaluate")
    stage = json.loads((pack / "instruct/stage.json").read_text())
    assert stage["checkpoint"] and "fingerprint" in (pack / "lineage.json").read_text()


def test_no_key_no_image_no_path_and_no_name_of_the_machine_is_in_it(pack: Path, world: Path) -> None:
    whole = read_all(pack)
    answers = [json.loads(line) for line in (world / "runs/first/evaluate/answers.jsonl").read_text().splitlines()]
    assert len({record["key"] for record in answers}) > 3
    assert not [record["key"] for record in answers if record["key"] in whole]
    assert str(world) not in whole and str(Path.home()) not in whole and "places.json" not in whole
    assert not list(pack.rglob("*.png")) and "data:image/png" not in whole
    assert len(platform.node()) < 4 or platform.node() not in whole


def test_it_is_written_once_and_no_other_folder_is_overwritten(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evidence", "runs/first", "--to", "pack"]
    assert main(words) == 0
    first, inode = capsys.readouterr().out, Path("pack").stat().st_ino
    assert main(words) == 0  # as after an interruption at its very end
    assert capsys.readouterr().out == first and Path("pack").stat().st_ino == inode
    Path("pack/note.txt").write_text("mine")
    assert main(words) == 2
    assert "pack: exists and is other evidence; choose another folder" in capsys.readouterr().err
    Path("pack/note.txt").unlink()
    change(run / "metrics.jsonl", lambda record: record.update(note="more"))
    assert main(words) == 2 and "other evidence" in capsys.readouterr().err
    Path("pack/evidence.json").unlink()
    assert main(words) == 2 and "pack: exists; choose another folder" in capsys.readouterr().err
    assert not list(Path().glob(".pack*"))


def change(path: Path, what: Callable[[dict[str, Any]], None]) -> None:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    what(records[0])
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_answers_that_may_identify_a_person_are_left_out_and_said_to_be(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def plant(record: dict[str, Any]) -> None:
        record["answer"] = "Mr John Smith, MRN 12345678, seen on 12/03/2019"

    change(run / "evaluate/answers.jsonl", plant)
    (run / "evaluate/results.json").write_text(json.dumps(rescore(run / "evaluate")))
    assert main(["evidence", "runs/first", "--to", "pack"]) == 0
    assert f"answers to {SPLIT} are left out: 1 of its texts may identify a person" in capsys.readouterr().out
    whole = read_all(Path("pack"))
    assert "John" not in whole and "12345678" not in whole
    assert main(["verify", "pack"]) == 0
    out = capsys.readouterr().out
    assert f"{SPLIT} not checked" in out and "1 of its texts may identify a person" in out
    assert "0 results of 0 splits" in out


def test_data_that_may_not_be_passed_on_stay_here(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = run / "cards/tiny.yaml"
    card.write_text(card.read_text().replace("commercial: true", "commercial: true\n  redistribute: false", 1))
    assert main(["evidence", "runs/first", "--to", "pack"]) == 0
    assert "does not allow passing on its data" in capsys.readouterr().out
    assert not list(Path("pack/evaluate").glob("*.jsonl"))


def test_paths_are_cut_and_secrets_stop_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run / "metrics.jsonl", lambda record: record.update(note="/home/anna/data/cxr", skipped=["patient-77"]))
    stage = run / "instruct/stage.json"
    stage.write_text(json.dumps({**json.loads(stage.read_text()), "from": {"language": "/data/private/base@12"}}))
    assert main(["evidence", "runs/first", "--to", "pack"]) == 0
    whole = read_all(Path("pack"))
    assert "anna" not in whole and "patient-77" not in whole and "private" not in whole
    monkeypatch.setenv("LAB_API_TOKEN", "correct-horse-battery")
    change(run / "metrics.jsonl", lambda record: record.update(note="correct-horse-battery"))
    capsys.readouterr()
    assert main(["evidence", "runs/first", "--to", "second"]) == 2
    said = capsys.readouterr().err
    assert "must not leave this machine" in said and "metrics.jsonl: the value of $LAB_API_TOKEN" in said
    assert "correct-horse" not in said and not Path("second").exists()
    change(run / "metrics.jsonl", lambda record: record.update(note="hf_" + "A1b2C3d4E5" * 3))
    assert main(["evidence", "runs/first", "--to", "second"]) == 2
    assert "what looks like an access token" in capsys.readouterr().err and not list(Path().glob(".second*"))


def test_results_that_are_not_those_of_the_answers_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = run / "evaluate/results.json"
    rows = json.loads(results.read_text())
    rows[0]["value"] = 0.999
    results.write_text(json.dumps(rows))
    assert main(["evidence", "runs/first", "--to", "pack"]) == 2
    assert "is not what the saved answers give; evaluate again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (lambda p: (p / "evaluate/results.json").write_text("[]"), "evaluate/results.json was changed"),
        (lambda p: (p / "cards/tiny.yaml").unlink(), "cards/tiny.yaml is missing"),
        (lambda p: (p / "more.txt").write_text("x"), "more.txt was added"),
        (lambda p: (p / "link").symlink_to("/etc/hosts"), "link was added"),
        (
            lambda p: change(p / "evaluate/answers.jsonl", lambda record: record.update(answer="left")),
            "evaluate/answers.jsonl was changed",
        ),
    ],
)
def test_what_was_tampered_with_is_one_line(
    how: Callable[[Path], Any], why: str, pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pack, copy)
    how(copy)
    assert main(["verify", str(copy)]) == 2
    said = capsys.readouterr()
    assert why in said.out and "1 of these checks failed" in said.err and "scores       not checked" in said.out


def reseal(pack: Path, name: str) -> None:
    """As a forger would."""
    manifest = json.loads((pack / "evidence.json").read_text())
    manifest["files"][name] = hash_file(pack / name)
    (pack / "evidence.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def test_scores_that_were_forged_with_their_hash_are_found(
    pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pack, copy)
    rows = json.loads((copy / "evaluate/results.json").read_text())
    rows[0]["value"] = 0.999
    (copy / "evaluate/results.json").write_text(json.dumps(rows))
    reseal(copy, "evaluate/results.json")
    assert main(["verify", str(copy)]) == 2
    said = capsys.readouterr()
    assert "NOT the same" in said.out and "1 of these checks failed" in said.err


def test_the_exported_model_is_compared_file_by_file(
    pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, model = tmp_path / "copy", tmp_path / "model"
    shutil.copytree(pack, copy)
    model.mkdir()
    for name in ("a", "b", "c"):
        (model / name).write_text(name)
    manifest = json.loads((copy / "evidence.json").read_text())
    manifest["model"] = {name: hash_file(model / name) for name in ("a", "b", "c")}
    (copy / "evidence.json").write_text(json.dumps(manifest))
    assert main(["verify", str(copy), "--model", str(model)]) == 0
    assert "3 files are those of the evidence" in capsys.readouterr().out
    (model / "a").write_text("x")
    (model / "b").unlink()
    assert main(["verify", str(copy), "--model", str(model)]) == 2
    said = capsys.readouterr()
    assert "model        b is missing" in said.out and "model        a is another file" in said.out
    assert "2 of these checks failed" in said.err


def test_another_folder_is_no_export_of_this_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evidence", "runs/first", "--to", "pack", "--model", str(tmp_path)]) == 2
    assert "is not an export of medvlm" in capsys.readouterr().err and not Path("pack").exists()


def test_another_version_says_so(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pack, copy)
    path = copy / "evidence.json"
    path.write_text(path.read_text().replace('"form": 1', '"form": 2'))
    assert main(["verify", str(copy)]) == 2
    assert "is evidence of form 2, written by medvlm" in capsys.readouterr().err
    monkeypatch.setattr("medvlm.commands.verify.VERSION", measures.VERSION + 1)
    assert main(["verify", str(pack)]) == 0
    assert "scores       not checked: measures of version" in capsys.readouterr().out


def test_a_folder_that_is_no_evidence_costs_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert "is no evidence (it has no evidence.json)" in capsys.readouterr().err
    (tmp_path / "evidence.json").write_text("[]")
    assert main(["verify", str(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err
