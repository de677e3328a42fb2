"""`medvlm data audit`: exit codes, where the receipt goes, and who reads it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from medvlm.archive.audit.receipt import read_audit
from medvlm.cli import EXIT_DONE, EXIT_USER, main
from medvlm.export.audit import Audit
from medvlm.export.card.about import About
from medvlm.export.card.page import _describe_data
from medvlm.recipe.schema import CacheConfig
from medvlm.recipe.sources import open_sources
from tests.archive.audited import SECRET, Row, card, jpeg, picture, shards

ROWS = [Row("train", f"{SECRET}-1", 1), Row("train", f"{SECRET}-2", 2), Row("test", f"{SECRET}-3", 3)]
NEAR = [*ROWS, Row("test", f"{SECRET}-4", jpeg(picture(1), 40))]
TORN = [*ROWS, Row("test", f"{SECRET}-1", 5)]


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = main(["data", "audit", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_clean_set_passes_and_has_its_receipt_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards(tmp_path / "a", ROWS, card("a"))
    code, out, _ = run(capsys, folder)
    assert code == EXIT_DONE
    assert out.splitlines()[-6:-1] == [
        "a:test: 1 samples, 1 patients, 1 images, 0 questions",
        "a:train: 2 samples, 2 patients, 2 images, 0 questions",
        "not looked for: copies that are cropped, bordered, rotated by other angles, or labelled (docs/data.md)",
        "no overlap was found in what could be compared",
        "combined terms: commercial use allowed (MIT); access: open; patient data: none",
    ]
    receipt = read_audit(folder / "audit.json")
    assert receipt["passed"] and out.splitlines()[-1] == f"receipt {receipt['hash'][:16]}: {folder / 'audit.json'}"


def test_one_shared_patient_is_exit_2_with_splits_and_count_and_without_the_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shards(tmp_path / "a", TORN, card("a"))
    code, out, err = run(capsys, folder)
    assert code == EXIT_USER
    assert "error: 1 of the 2 patients of a:test are also in a:train" in out
    assert err == "medvlm: the audit failed: 1 of 1 findings is an error\n"
    assert SECRET not in out + err + (folder / "audit.json").read_text()
    assert not read_audit(folder / "audit.json")["passed"]


def test_near_duplicates_are_told_and_fail_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards(tmp_path / "a", NEAR, card("a"))
    code, out, _ = run(capsys, folder)
    assert code == EXIT_DONE and "warning: 1 of the 2 images of a:test nearly equal one of a:train" in out
    code, out, _ = run(capsys, folder, "--strict", "--to", tmp_path / "strict.json")
    assert code == EXIT_USER and "error: 1 of the 2 images of a:test nearly equal" in out
    assert (read_audit(tmp_path / "strict.json")["passed"], read_audit(folder / "audit.json")["passed"]) == (
        False,
        True,
    )


def test_a_benchmark_may_be_named_with_its_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = shards(tmp_path / "a", ROWS, card("a"))
    bench = shards(
        tmp_path / "bench", [Row("train", "x", 1), Row("test", "y", 9)], card("bench", splits={"salt": "two"})
    )
    assert run(capsys, a, "--against", bench)[0] == EXIT_DONE
    code, out, _ = run(capsys, a, "--against", f"{bench}:train")
    assert code == EXIT_USER and "error: contamination: 1 of the 1 images of bench:train are also in a:train" in out
    assert run(capsys, a, "--against", f"{bench}:dev")[0] == EXIT_USER


def test_cards_alone_count_and_correct_the_copies_beside_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shards(tmp_path / "a", ROWS, card("a"))
    for name, licence in (("a", "MIT-0"), ("b", "CC-BY-NC-4.0")):
        about = card(name, licence={"id": licence, "commercial": licence == "MIT-0"})
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(about.model_dump(mode="json", by_alias=True)))
    code, out, _ = run(capsys, folder, tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert code == EXIT_DONE
    assert "note: b: only its card was given" in out and "note: a: only" not in out
    assert "combined terms: non-commercial only (CC-BY-NC-4.0, MIT-0)" in out


def test_an_archive_is_packed_for_the_audit_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = shards(tmp_path / "a", ROWS, card("a"))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "0.jpg").write_bytes(jpeg(picture(2), 60))
    (tmp_path / "raw" / "t.csv").write_text("f\n0.jpg\n")
    reader = {"kind": "table", "file": "t.csv", "media": [{"file": "{f}", "kind": "film"}], "report": "{f}"}
    about = card("raw", splits={"by": "image", "ratios": {"test": 1.0}}, reader=reader)
    (tmp_path / "raw.yaml").write_text(yaml.safe_dump(about.model_dump(mode="json", by_alias=True)))
    code, out, _ = run(capsys, a, "--against", f"{tmp_path / 'raw.yaml'}={tmp_path / 'raw'}")
    assert (
        code == EXIT_DONE and "warning: contamination: 1 of the 1 images of raw:test nearly equal one of a:train" in out
    )
    assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == ["0.jpg", "t.csv"]
    code, _, err = run(capsys, a, "--against", tmp_path / "raw.yaml")
    assert code == EXIT_USER and "a card has no samples" in err


def test_an_archive_that_not_everybody_may_have_is_packed_with_a_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = shards(tmp_path / "a", ROWS, card("a"))
    (tmp_path / "salt").touch(0o600)
    (tmp_path / "salt").write_text("5f0c93ab71e8d264\n")
    (tmp_path / "t.csv").write_text("f,r\n0,clear lungs\n")
    about = card(
        "raw",
        media=[],
        access="credentialed",
        splits={"by": "image"},
        reader={"kind": "table", "file": "t.csv", "key": "{f}", "patient": "{f}", "report": "{r}"},
    )
    (tmp_path / "raw.yaml").write_text(yaml.safe_dump(about.model_dump(mode="json", by_alias=True)))
    words = (a, f"{tmp_path / 'raw.yaml'}={tmp_path}")
    code, _, err = run(capsys, *words)
    assert code == EXIT_USER and "--salt-file" in err
    code, out, _ = run(capsys, *words, "--salt-file", tmp_path / "salt")
    assert (
        code == EXIT_DONE
        and "patients of a and raw were not compared: their patients were hashed with different salts" in out
    ), out


# --- who reads the receipt ------------------------------------------------------------------------


def sources(tmp_path: Path, **folders: Path) -> dict[str, Any]:
    data = {
        name: SimpleNamespace(shards=str(folder), fold=None, root="", salt_file="", hold_out=None)
        for name, folder in folders.items()
    }
    loaded: Any = SimpleNamespace(
        recipe=SimpleNamespace(name="r", data=data, cache=CacheConfig()), cards={name: card(name) for name in folders}
    )
    return open_sources(loaded, tmp_path / "runs", say=lambda _: None)


def test_a_recipes_sources_know_their_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = shards(tmp_path / "a", ROWS, card("a")), shards(tmp_path / "b", [Row("train", "p", 7)], card("b"))
    assert sources(tmp_path, a=a, b=b)["a"].audit == {}
    run(capsys, a, b)
    receipt = read_audit(a / "audit.json")
    found = sources(tmp_path, a=a, b=b)
    assert found["a"].audit == {
        "hash": receipt["hash"],
        "passed": True,
        "compared_with": ["b"],
        "against": [],
        "findings": [],
    }
    assert found["a"].describe()["audit"] == found["a"].audit
    other = shards(tmp_path / "c", NEAR, card("a"))
    (other / "audit.json").write_bytes((a / "audit.json").read_bytes())
    assert sources(tmp_path, c=other)["c"].audit == {}, "a receipt of other shards says nothing"


def test_a_receipt_in_the_runs_folder_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = shards(tmp_path / "a", TORN, card("a"))
    run(capsys, a, "--to", tmp_path / "runs" / "r" / "audit.json")
    audit = sources(tmp_path, a=a)["a"].audit
    assert not audit["passed"] and [f["severity"] for f in audit["findings"]] == ["error"]


def test_the_model_card_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = shards(tmp_path / "a", TORN, card("a")), shards(tmp_path / "b", [Row("train", "p", 7)], card("b"))
    run(capsys, a, b)
    audits = {name: s.audit for name, s in sources(tmp_path, a=a, b=b).items()}
    about = About(
        kind="llava",
        what="",
        task="",
        is_part=False,
        needs_medvlm=False,
        parts=(),
        recipe={},
        cards={n: card(n) for n in "abc"},
        counts={},
        stages={},
        results=[],
        preprocess={},
        parity={},
        audit=Audit(),
        recipe_hash="",
        version="",
        audits=audits,
    )
    text, receipt = _describe_data(about), json.loads((a / "audit.json").read_text())["hash"][:16]
    assert (
        f"- a: **failed**, compared with b (receipt `{receipt}`)\n  - error: 1 of the 2 patients of a:test are also in"
        " a:train" in text
    )
    assert f"- b: passed, compared with a (receipt `{receipt}`)\n" in text
    assert "- c: not audited: it was not checked whether a patient or an image is in more than one split" in text
