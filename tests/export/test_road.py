"""An audit from end to end: its receipt is in the checkpoint and on the card of the exported model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from medvlm.cli import EXIT_DONE, main
from medvlm.export.proof import parity
from medvlm.train import checkpoint
from medvlm.train.finished import find_final
from tests.tiny_run import INSTRUCT, recipe, written

from .conftest import prove_here


@pytest.mark.slow
def test_from_audit_to_model_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parity, "prove", prove_here)
    stage = {**INSTRUCT, "steps": 1, "save_every": 0}
    path = written(
        tmp_path,
        recipe(
            data={"films": {"card": "card.yaml", "shards": str(tmp_path / "shards")}},
            stages=[stage],
            export={"target": ["stock", "adapter"]},
        ),
    )

    def medvlm(*words: object) -> str:
        assert main([str(word) for word in words]) == EXIT_DONE, capsys.readouterr().err
        return capsys.readouterr().out

    medvlm("data", "pack", tmp_path / "card.yaml", "--out", tmp_path / "shards", "--workers", 1)
    medvlm("data", "audit", tmp_path / "shards")
    receipt = json.loads((tmp_path / "shards" / "audit.json").read_text())["hash"]
    assert "exports as llava" in medvlm("validate", path)
    medvlm("train", path, "--runs", tmp_path / "runs")
    run = tmp_path / "runs" / "tiny"
    assert checkpoint.read_state(find_final(run / "instruct"))["meta"]["audits"] == {"films": receipt}
    said = medvlm("export", f"{run}:instruct", "--to", tmp_path / "model")
    assert f"{tmp_path / 'model' / 'stock'}: loads with plain transformers" in said and "loads with plain peft" in said
    for target in ("stock", "adapter"):
        card = (tmp_path / "model" / target / "README.md").read_text()
        assert f"- tiny: passed (receipt `{receipt[:16]}`)" in card
        front = yaml.safe_load(card.split("---\n")[1])
        assert front["license"] == "cc0-1.0" and front["library_name"] == (
            "transformers" if target == "stock" else "peft"
        )
    assert "nothing was sent" in medvlm("export", tmp_path / "model" / "stock", "--to", "hub:lab/films", "--public")
