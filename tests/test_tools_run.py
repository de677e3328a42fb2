"""A model that looks closer answers what no model can tell from the whole image. Slow: it trains two models from random
weights, for some minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medvlm import cli

ROOT = Path(__file__).parent.parent
RECIPE = str(ROOT / "recipes" / "phantom_zoom.yaml")


def call(*words: str) -> None:
    assert cli.main(list(words)) == 0


def measure(run: str) -> dict[str, Any]:
    rows = json.loads(Path(run, "evaluate", "results.json").read_text())
    (row,) = (row for row in rows if row["metric"] == "accuracy" and row["task"] == "vqa")
    return row  # type: ignore[no-any-return]


@pytest.mark.slow
def test_two_turns_solve_what_one_turn_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many steps on the same films. The stripes of the mark are lost in the image that both models see first."""
    monkeypatch.chdir(tmp_path)
    shards, short = "runs/shards/phantom_marks", "stages.imitate.steps=120"
    call("data", "pack", str(ROOT / "data_cards" / "phantom_marks.yaml"), "--out", shards)
    call("data", "turns", shards, "--recipe", RECIPE, "--to", f"{shards}_turns")
    call("train", RECIPE, short, "stages.practise.steps=10")
    call("evaluate", "runs/phantom_zoom", "evaluate.baselines=[majority]")
    alone = ["stages.imitate.mix={marks: 1}", "stages.imitate.tasks=[choice]", "environment=null", "data.expert=null"]
    call("train", RECIPE, "name=one_turn", short, *alone, "--stage", "imitate")
    call("evaluate", "runs/one_turn", "--stage", "imitate", "evaluate.baselines=[majority]")
    looks, guesses = measure("runs/phantom_zoom"), measure("runs/one_turn")
    assert looks["n"] == guesses["n"] > 300
    assert looks["ci"][0] > 0.8 and guesses["ci"][0] < 0.5 < guesses["ci"][1] < 0.65
