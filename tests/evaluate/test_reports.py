"""Reports are asked for by their own protocol, and compared with blind, shuffled and constant ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medvlm.core.protocols import Row
from medvlm.core.run import RunFolder
from medvlm.core.tasks import find_task
from medvlm.evaluate.protocols.long_answers import rows_of
from medvlm.evaluate.run import evaluate
from medvlm.evaluate.saved import rescore
from medvlm.metrics.text import fit_cider
from medvlm.tasks.report import Truth, best_constant, split_words
from tests.evaluate.toy import Noisy, is_noisy, make_sample, write_shards

SAMPLES = [make_sample("test", i)[0] for i in range(80)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    shards = write_shards(folder / "shards", {"train": 60, "test": 80})
    evaluate(
        [Noisy()],
        shards,
        dataset="toy",
        split="test",
        places=[("test", i) for i in range(80)],
        training=lambda: [("train", i) for i in range(60)],
        out=RunFolder(folder / "run"),
        protocols=["long_answers"],
        resamples=200,
        rewards={"report": 1.0},
    )
    return folder / "run" / "evaluate"


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, Row]:
    return {f"{row['task']} {row['metric']}": row for row in json.loads((folder / "results.json").read_text())}


def test_every_report_is_asked_for_and_nothing_else(folder: Path) -> None:
    records = [json.loads(line) for line in (folder / "long_answers.jsonl").read_text().splitlines()]
    assert {record["task"] for record in records} == {"report"} and len(records) == len(SAMPLES)


def test_values_are_what_the_mistakes_make_them(rows: dict[str, Row]) -> None:
    right = 1 - float(np.mean([is_noisy(sample.key, "report") for sample in SAMPLES]))
    for metric in ("report rouge_l", "report token_f1", "report token_recall", "reward report"):
        assert rows[metric]["value"] == pytest.approx(right, abs=1e-6)
    assert {"report bleu_1", "report bleu_4", "report cider", "report bleu_4:report"} <= rows.keys()
    assert rows["report bleu_1"]["value"] == pytest.approx(right, abs=1e-5), "every text has two words"


def test_cider_weighs_words_by_the_reports_of_the_split(rows: dict[str, Row]) -> None:
    references = [split_words(q.truth.answer) for s in SAMPLES for q in s.questions if q.template == "report"]
    score = fit_cider(references)
    said = [
        ("a", "fracture") if is_noisy(s.key, "report") else words for s, words in zip(SAMPLES, references, strict=True)
    ]
    expected = np.mean([score(words, reference) for words, reference in zip(said, references, strict=True)])
    assert rows["report cider"]["value"] == pytest.approx(expected, abs=1e-6) and expected > 0.5


def test_baselines_are_measured_like_the_model(rows: dict[str, Row]) -> None:
    for row in rows.values():
        assert row["baselines"].keys() == {"blind", "shuffled", "majority", "nearest"} and row["n"] == len(SAMPLES)
    assert rows["report bleu_1"]["paired"]["verdict"] == "better"  # type: ignore[index]
    assert min(rows["report token_f1"]["baselines"][name] for name in ("majority", "blind")) > 0.5


def test_saved_answers_score_to_the_same_rows(folder: Path, rows: dict[str, Row]) -> None:
    assert rescore(folder) == list(rows.values())


def test_the_best_constant_is_that_of_each_measure() -> None:
    truths = [Truth(text) for text in ["no finding", "no finding", "a b c d e f g", "a b c d"]]
    for measure in find_task("report").MEASURES:
        assert best_constant(truths, measure) in {truth.answer for truth in truths}
    recall = next(measure for measure in find_task("report").MEASURES if measure.metric == "token_recall")
    assert best_constant(truths, recall) != best_constant(truths, None)


def test_findings_have_rows_over_all_by_class_and_by_section() -> None:
    """Every second report is read the wrong way round; the baseline `majority` always calls the chest normal."""
    pairs = [("Left effusion.", "Left effusion."), ("No effusion.", "IMPRESSION: Right effusion.")] * 4
    records = [
        {
            "key": f"s{n}",
            "cluster": n,
            "template": "report",
            "task": "report",
            "truth": Truth(reference, "english_chest_radiograph").to_json(),
            "answer": answer,
            "majority": "No acute process.",
        }
        for n, (answer, reference) in enumerate(pairs)
    ]
    settings = {
        "dataset": "toy",
        "split": "test",
        "baselines": ["majority"],
        "resamples": 100,
        "seed": 0,
        "rewards": {},
    }
    rows = {row["metric"]: row for row in rows_of(records, settings)}
    assert rows["finding_f1"]["value"] == pytest.approx(2 * 4 / (2 * 4 + 4 + 4), abs=1e-6)
    assert rows["finding_f1"]["baselines"] == {"majority": 0.0} and rows["finding_f1"]["ci"] is not None
    classes = {name: rows[f"finding_f1_macro:report:{name}"]["value"] for name in ("pleural_effusion", "no_finding")}
    assert classes == {"pleural_effusion": pytest.approx(8 / 12, abs=1e-6), "no_finding": 0.0}
    assert rows["finding_f1_macro"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert "finding_f1_macro:report:edema" not in rows, "no text mentions it, so it has no F1"
    assert (rows["finding_f1_impression"]["n"], rows["finding_f1_impression"]["value"]) == (4, 0.0)
    assert "finding_f1_findings" not in rows
