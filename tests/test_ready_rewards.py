"""Ready models learn from pairs of answers and from rewards, and what they drew is stored, drawn and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medvlm.commands import evaluate as evaluation
from medvlm.commands import export as exporting
from medvlm.core.run import RunFolder
from medvlm.io.images import size_of
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.report.run import draw_report
from tests.stages.test_preference import PAIRED
from tests.tiny_run import REASON, trained, written

pytestmark = pytest.mark.slow
LORA = {"rank": 2, "alpha": 4}
PREFER = {
    "name": "prefer", "kind": "preference", "mix": {"films": 1}, "trains": ["encoders", "connectors", "lora"],
    "lora": LORA, "steps": 2, "batch": 2, "optim": {"lr": 1.0e-3}, "validate": {"every": 2, "samples": 4},
}  # fmt: skip
GROUP = 3
REINFORCE = {
    **REASON, "lora": LORA, "steps": 2, "batch": 4, "group": GROUP, "tasks": ["choice", "boxes"],
    "rewards": {"medvlm.preflight.rehearsal.fake_reward": 1.0, "format": 0.5, "boxes": 1.0},
    "rollout_log": {"every": 1, "questions": 4},
}  # fmt: skip


@pytest.fixture(scope="module", params=["qwen2_5_vl", "gemma3", "florence2"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp(request.param)
    content = {
        "name": "rewarded",
        "seed": 7,
        "plugins": ["medvlm"],
        "model": {"pretrained": str(save_tiny(request.param, folder / "model"))},
        "data": {"films": {"card": "card.yaml"}},
        "stages": [PREFER, REINFORCE],
        "engine": {"device": "cpu", "workers": 1},
        "evaluate": {"on": ["films:test"], "protocols": ["preferences"], "bootstrap": 10},
    }
    return trained(written(folder, content, PAIRED), folder / "runs")


def read(run: RunFolder, stage: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [record for record in records if record.get("stage") == stage]


def test_pairs_are_learned_and_judged(run: RunFolder, tmp_path: Path) -> None:
    steps = [record for record in read(run, "prefer") if "loss" in record]
    assert [record["step"] for record in steps] == [1, 2] and steps[0]["loss"] == pytest.approx(0.693, abs=1e-3)
    rows = evaluation.evaluate(run.root)
    assert rows and all(0 <= row["value"] <= 1 for row in rows)
    (receipt,) = exporting.export(run, tmp_path / "out")
    assert receipt.kind == "native" and receipt.parity["passed"]


def test_what_was_drawn_is_stored_and_shown(run: RunFolder, tmp_path: Path) -> None:
    folder = run.stage("reason") / "rollouts"
    assert sorted(path.name for path in folder.glob("*.jsonl")) == ["step-1.jsonl", "step-2.jsonl"]
    lines = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == 2 * 4 * GROUP
    for line in lines:
        assert line["truth"]["task"] == line["task"] and {"format"} < line["rewards"].keys()
        assert min(size_of((run.stage("reason") / line["thumb"]).read_bytes(), "0.png")) > 8
        assert (line["scale"] is not None) == (line["task"] == "boxes")
    assert {line["task"] for line in lines} == {"choice", "boxes"}
    page = draw_report(run, tmp_path / "report.html").read_text()
    assert "reason, step 1" in page and str(lines[0]["question"]) in page and "data:image/png;base64" in page
