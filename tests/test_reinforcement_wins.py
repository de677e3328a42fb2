"""A task that reinforcement wins: predicted by `rl-check`, and measured by `rl-helps` against supervised training of
equal compute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvlm.cli import main
from medvlm.commands.rl_check import rl_check
from medvlm.evaluate.reinforcement import HELPED


@pytest.mark.slow
def test_reinforcement_learns_to_mark_the_finding_that_is_seen_best(tmp_path: Path) -> None:
    """What is written in the training data is mostly a finding that can hardly be seen; each right box is paid."""
    runs, run = tmp_path / "runs", tmp_path / "runs" / "phantom_spots"
    assert main(["train", "phantom_spots.yaml", "--runs", str(runs), "--stage", "imitate", "engine.workers=0"]) == 0
    (found,) = rl_check(run, stage="imitate", overrides=["evaluate.samples=120"], runs=runs)
    print(found)
    assert found.verdict == "may help" and found.best > found.greedy + 0.2
    assert main(["rl-helps", str(run), "--yes"]) == 0
    result = json.loads((run / "rl-helps" / "result.json").read_text())
    assert result["verdict"] == HELPED and result["compute"] >= 1
    gains = [d for d in result["differences"] if d["what"] == "score" and not d["task"] and d["of"] == "reinforced"]
    assert all(gain["ci"][0] > 0.1 for gain in gains) and {gain["against"] for gain in gains} == {"before", "control"}
