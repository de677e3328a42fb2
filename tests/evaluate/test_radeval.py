"""Metrics of the package RadEval in an environment of its own: the real package where MEDVLM_RADEVAL names its Python,
and a small one that stands in for it where it has to be slow, noisy or incomplete."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.core.errors import RecipeError
from medvlm.core.protocols import Row
from medvlm.core.radeval_config import RadEvalConfig
from medvlm.core.run import RunFolder
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.evaluate.radeval import RadEval
from medvlm.evaluate.run import evaluate
from medvlm.evaluate.saved import rescore
from medvlm.io.images import encode_png
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet, ShardWriter

CHEST = "english_chest_radiograph"
SAID = ["No pleural effusion.", "Large left effusion.", "", "Clear lungs."]
TRUE = ["There is no pleural effusion.", "Small left effusion.", "Clear lungs.", "Clear lungs."]

STAND_IN = """
import os, time
class RadEval:
    def __init__(self, metrics, per_sample, show_progress):
        (self.metric,) = metrics
        print("words on the standard output")
        os.system("echo words of another process")
        if self.metric == "green":
            raise OSError("We could not connect to load the files")
        if self.metric == "crimson":
            raise SystemExit("no weights")
        with open(__file__ + ".made", "a") as file:
            file.write(self.metric + " ")
    def __call__(self, refs, hyps):
        if self.metric == "bleu":
            time.sleep(60)
        if self.metric == "f1chexbert":
            return {"something else": [0.0] * len(refs)}
        same = [len(set(a.split()) & set(b.split())) / len(a.split()) for a, b in zip(refs, hyps)]
        return {key: same for key in ("radgraph_simple", "radgraph_partial", "radgraph_complete")}
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter whose environment has the stand-in."""
    folder = tmp_path_factory.mktemp("environment")
    (folder / "radeval.py").write_text(STAND_IN)
    (folder / "radeval-2.2.1.dist-info").mkdir()
    (folder / "radeval-2.2.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: radeval\nVersion: 2.2.1\n"
    )
    python = folder / "python"
    start = f"import sys, runpy; sys.path.insert(0, {str(folder)!r}); runpy.run_path(sys.argv[1], run_name='__main__')"
    (folder / "start.py").write_text(start)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/start.py" "$@"\n')
    python.chmod(0o755)
    return python


class Says:
    can = frozenset({"answer"})
    identity = {"model": "says"}

    def answer(self, asks: Any) -> list[str]:
        return [SAID[int(ask.sample.key)] for ask in asks]

    def draw_thumbnail(self, ask: Any) -> bytes:
        return encode_png(np.zeros((8, 8), dtype=np.uint8))


def write_reports(folder: Path, findings: str = CHEST) -> ShardSet:
    with ShardWriter(folder, "test") as writer:
        for n, text in enumerate(TRUE):
            truth = make_truth("report", text, **({"findings": findings} if findings else {}))
            film, question = Medium("film", "0.bin", (8, 8)), Question("Report.", truth, "report")
            writer.write(Sample(str(n), "toy", "test", media=(film,), questions=(question,)), {"0.bin": b"pixels"})
    return open_shards(folder)


def evaluate_reports(shards: ShardSet, folder: Path, config: RadEvalConfig, said: list[str]) -> dict[str, Row]:
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
        judges=[RadEval(config)],
        resamples=10,
        say=said.append,
    )
    assert rescore(folder / "evaluate") == rows
    return {row["metric"]: row for row in rows}


def test_scores_of_another_environment_stand_beside_ours_and_what_fails_there_has_none(
    stand_in: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    config = RadEvalConfig(python=str(stand_in))
    rows = evaluate_reports(write_reports(tmp_path / "shards"), tmp_path, config, said)
    # Of the words of the reference: 2 of 5 (`No` is another word), 2 of 3, none for an empty answer, all.
    expected = np.mean([2 / 5, 2 / 3, 0, 1])
    assert rows["radeval_radgraph_partial"]["value"] == pytest.approx(expected, abs=1e-6)
    assert rows["radeval_radgraph_partial"]["n"] == 4 and rows["radeval_radgraph_partial"]["baselines"].keys() == {
        "blind"
    }
    assert {name for name in rows if name.startswith("radeval")} == {
        f"radeval_radgraph_{level}" for level in ("simple", "partial", "complete")
    }
    told = " | ".join(said)
    (settings,) = json.loads((tmp_path / "evaluate/protocol.json").read_text())
    assert settings["radeval"]["version"] == "2.2.1" and len(settings["not_checked"]) == 3
    assert "RadEval green: not checked (OSError: We could not connect to load the files)" in told
    assert "RadEval crimson: not checked (SystemExit: no weights)" in told
    assert "RadEval f1chexbert: not checked (RadEval 2.2.1 gives no f1chexbert_sample_acc_5 for each report)" in told


def test_a_report_is_scored_once(stand_in: Path, tmp_path: Path) -> None:
    shards, config = write_reports(tmp_path / "shards"), RadEvalConfig(python=str(stand_in), metrics=("radgraph",))
    made = stand_in.parent / "radeval.py.made"
    rows = evaluate_reports(shards, tmp_path, config, [])
    before = made.read_text()
    assert evaluate_reports(shards, tmp_path, config, []) == rows and made.read_text() == before


def test_reports_that_no_card_calls_english_chest_radiographs_have_no_scores(stand_in: Path, tmp_path: Path) -> None:
    config = RadEvalConfig(python=str(stand_in), metrics=("radgraph",))
    rows = evaluate_reports(write_reports(tmp_path / "shards", findings=""), tmp_path, config, [])
    assert "rouge_l" in rows and not [name for name in rows if name.startswith("radeval")]


def test_an_environment_without_it_and_one_that_hangs_cost_a_line(stand_in: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has no RadEval \(PackageNotFoundError: .*pip install radeval==2\.2\.1"):
        RadEval(RadEvalConfig(python=sys.executable))
    with pytest.raises(RecipeError, match=r"nowhere/python cannot be started \(No such file"):
        RadEval(RadEvalConfig(python="nowhere/python"))
    with pytest.raises(RecipeError, match=r"has no RadEval \(its process ended\)"):
        RadEval(RadEvalConfig(python="/bin/true"))
    config = RadEvalConfig(python=str(stand_in), metrics=("bleu",), timeout_s=1)
    with pytest.raises(RecipeError, match=r"no scores within timeout_s \(1 s\)"):
        evaluate_reports(write_reports(tmp_path / "shards"), tmp_path, config, [])


@pytest.mark.skipif("MEDVLM_RADEVAL" not in os.environ, reason="MEDVLM_RADEVAL names no Python with radeval")
def test_the_real_package_gives_its_own_scores(tmp_path: Path) -> None:
    """ROUGE-1 of RadEval by hand: (3 + 1) words are shared; its stemmer changes none of them."""
    said: list[str] = []
    config = RadEvalConfig(python=os.environ["MEDVLM_RADEVAL"], metrics=("rouge", "bleu", "green"))
    rows = evaluate_reports(write_reports(tmp_path / "shards"), tmp_path, config, said)
    by_hand = [2 * 3 / (3 + 5), 2 * 2 / (3 + 3), 0, 1]
    assert rows["radeval_rouge1"]["value"] == pytest.approx(np.mean(by_hand), abs=1e-6)
    assert 0 < rows["radeval_bleu"]["value"] < 1
    assert "radeval_green" in rows or "RadEval green: not checked (" in " ".join(said)
