"""METEOR beside the other measures of reports, against the Java program itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.core.run import RunFolder
from medvlm.evaluate import meteor
from medvlm.evaluate.meteor import Meteor
from medvlm.evaluate.run import evaluate
from medvlm.evaluate.saved import rescore
from tests.evaluate.test_radeval import SAID, TRUE, Says, write_reports

needs_java = pytest.mark.skipif(bool(Meteor().why), reason=f"METEOR: {Meteor().why}")


def evaluate_reports(shards: Any, folder: Path, said: list[str]) -> dict[str, Any]:
    rows = evaluate(
        [Says()],
        shards,
        dataset="toy",
        split="test",
        places=[("test", n) for n in range(len(TRUE))],
        training=list,
        out=RunFolder(folder),
        protocols=["long_answers"],
        baselines=["blind"],
        judges=[Meteor()],
        resamples=10,
        say=said.append,
    )
    assert rescore(folder / "evaluate") == rows
    return {row["metric"]: row for row in rows}


@pytest.mark.slow
@needs_java
def test_scores_are_those_of_the_program_and_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pycocoevalcap.meteor.meteor import Meteor as Program

    shards = write_reports(tmp_path / "shards")
    row = evaluate_reports(shards, tmp_path, [])["meteor"]
    program = Program()
    spoken = [n for n, text in enumerate(SAID) if text.strip()]
    _, scores = program.compute_score({n: [TRUE[n]] for n in spoken}, {n: [SAID[n]] for n in spoken})
    program.meteor_p.kill()
    assert row["value"] == pytest.approx(sum(scores) / len(TRUE), abs=1e-6) and 0 < row["value"] < 1
    assert row["n"] == len(TRUE) and row["baselines"].keys() == {"blind"}
    assert max(scores) == pytest.approx(1.0, abs=1e-3) and np.ptp(scores) > 0.1
    monkeypatch.setattr(meteor, "_compute", lambda wanted, keys: pytest.fail("it was kept"))
    assert evaluate_reports(shards, tmp_path, [])["meteor"]["value"] == row["value"]


@needs_java
@pytest.mark.slow
def test_a_text_of_several_lines_stays_one_text() -> None:
    texts = {"a": {"reference": "No effusion.\nHeart ||| normal.", "answer": "No effusion.\n\nHeart normal."}}
    joined = {"a": {"reference": "No effusion. Heart normal.", "answer": "No effusion. Heart normal."}}
    assert meteor._compute(texts, ["a"]) == meteor._compute(joined, ["a"])


def test_without_java_it_is_not_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor, "which", lambda name: None)
    said: list[str] = []
    rows = evaluate_reports(write_reports(tmp_path / "shards"), tmp_path, said)
    assert "meteor" not in rows and "bleu_4" in rows
    assert "METEOR: not checked (java is not installed)" in " | ".join(said)
    (settings,) = json.loads((tmp_path / "evaluate/protocol.json").read_text())
    assert settings["not_checked"] == {"METEOR": "java is not installed"} and settings["meteor"]["version"] == "1.5"
