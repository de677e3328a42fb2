"""No verb creates a folder or a file for a name that is mistyped."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medvlm.cli import EXIT_USER, main
from tests.tiny_run import CARD, PAIR, recipe, written

TABLE = {
    "kind": "table",
    "file": "table.csv",
    "key": "{id}",
    "report": "{text}",
    "media": [{"kind": "film", "file": "{image}"}],
}
WORDS = [
    "report runs/typo",
    "report empty",
    "report typo/run",
    "evaluate runs/typo --on films:test",
    "export runs/typo --to out",
    "export runs/typo:pair --to out",
    "consolidate runs/typo --to out",
    "consolidate runs/typo:pair --to out",
    "lineage runs/typo",
    "train typo.yaml",
    "train recipe.yaml --stage typo",
    "train recipe.yaml --from typo",
    "train recipe.yaml stages.typo.steps=3",
    "train archive.yaml data.films.root=typo",
    "dry-run typo.yaml",
    "plan typo.yaml",
    "data pack typo.yaml --out out",
    "data pack archive_card.yaml --root typo --out out",
    "data stats typo",
    "data show typo",
    "data audit typo",
    "chat typo",
    "chat ./runs/typo",
    "serve typo --port 0",
    "demo --real typo",
    "embed runs/typo typo.png --to out.parquet",
    "init --model typo/typo --csv typo.csv --image image --captions text --to out",
]


@pytest.mark.parametrize("words", WORDS)
def test_nothing_is_created_for_a_name_that_is_mistyped(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, recipe(stages=[PAIR]))
    (tmp_path / "archive_card.yaml").write_text(yaml.safe_dump({**CARD, "access": "open", "reader": TABLE}))
    archive = recipe(stages=[PAIR], data={"films": {"card": "archive_card.yaml"}})
    (tmp_path / "archive.yaml").write_text(yaml.safe_dump(archive))
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == EXIT_USER
    assert sorted(tmp_path.rglob("*")) == before
    assert "typo" in (said := capsys.readouterr().err) or "empty" in said
