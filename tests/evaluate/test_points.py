"""Thresholds are chosen on answers to validation samples, stored with the answers, and never on what is evaluated."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.core.ask import Ask
from medvlm.core.protocols import Row
from medvlm.core.run import RunFolder
from medvlm.core.sample import Question, Sample
from medvlm.core.tasks import find_task
from medvlm.evaluate.rows import Part, make_row
from medvlm.evaluate.run import evaluate
from medvlm.evaluate.saved import rescore
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet, ShardWriter
from medvlm.tasks.labels import Truth
from tests.evaluate.toy import Noisy

COUNT = 40
CLASSES = ("edema", "mass")


def is_there(split: str, i: int) -> tuple[bool, bool]:
    """Two samples a patient. No validation sample has a mass."""
    return random.Random(f"{split} {i // 2}").random() < 0.4, split != "val" and i % 4 == 0


def make_sample(split: str, i: int) -> Sample:
    truth = Truth(classes=CLASSES, labels=is_there(split, i), exclusive=False)
    asked = Question("What is there?", truth, "findings")
    return Sample(f"{split}{i:04d}", "toy", split, questions=(asked,), patient=f"{split} {i // 2}")


def give_scores(sample: Sample) -> list[float]:
    """Low, but higher where something is there: at 0.5 nothing would be found."""
    truth: Any = sample.questions[0].truth
    noise = random.Random(sample.key).random() / 10
    return [round(0.1 + 0.1 * label + noise, 3) for label in truth.labels]


class Shy(Noisy):
    can = frozenset({"decode"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def can_answer(self, question: Question) -> bool:
        return True

    def decode(self, asks: Sequence[Ask]) -> list[Any]:
        self.seen += [ask.sample.key for ask in asks]
        return [give_scores(ask.media_of[0] if ask.media_of else ask.sample) for ask in asks]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("findings")
    for split in ("train", "val", "test"):
        with ShardWriter(folder, split) as writer:
            for i in range(COUNT):
                writer.write(make_sample(split, i), {})
    return open_shards(folder)


def places(split: str) -> list[tuple[str, int]]:
    return [(split, i) for i in range(COUNT)]


def run_on(shards: ShardSet, folder: Path, split: str = "test", **more: Any) -> tuple[dict[str, Row], list[str], Shy]:
    model, said = Shy(), list[str]()
    rows = evaluate(
        [model], shards, dataset="toy", split=split, places=places(split), training=lambda: places("train"),
        out=RunFolder(folder), resamples=50, say=said.append, **more,
    )  # fmt: skip
    return {row["metric"]: row for row in rows}, said, model


def f1_at(threshold: float, split: str) -> float:
    samples = [make_sample(split, i) for i in range(COUNT)]
    told = [give_scores(sample)[0] >= threshold for sample in samples]
    true = [is_there(split, i)[0] for i in range(COUNT)]
    return 2 * sum(t and y for t, y in zip(told, true, strict=True)) / (sum(told) + sum(true))


def test_the_threshold_is_the_best_of_the_validation_samples(shards: ShardSet, tmp_path: Path) -> None:
    rows, said, model = run_on(shards, tmp_path, validation=lambda: places("val"))
    best = max({give_scores(make_sample("val", i))[0] for i in range(COUNT)}, key=lambda t: (f1_at(t, "val"), t))
    records = [json.loads(line) for line in (tmp_path / "evaluate/predictions.jsonl").read_text().splitlines()]
    assert all(record["points"] == {"edema": best} for record in records) and len(records) == COUNT
    assert rows["f1"]["value"] == pytest.approx(f1_at(best, "test"), abs=1e-6) and rows["f1"]["value"] > 0.5
    assert model.seen.count("val0000") == 1, "baselines are not asked about validation samples"
    assert said == []


def test_a_class_that_no_validation_sample_has_is_told_at_a_half_in_a_row_of_that_name(
    shards: ShardSet, tmp_path: Path
) -> None:
    rows, *_ = run_on(shards, tmp_path, validation=lambda: places("val"))
    assert rows["f1:findings"]["n"] == rows["f1_at_0.5:findings"]["n"] == COUNT
    assert rows["f1_at_0.5"]["value"] == 0 and rows["f1_at_0.5"]["baselines"]["majority"] == pytest.approx(0.4)


def test_saved_answers_score_to_the_same_bytes(shards: ShardSet, tmp_path: Path) -> None:
    run_on(shards, tmp_path, validation=lambda: places("val"))
    results = tmp_path / "evaluate/results.json"
    assert json.dumps(rescore(tmp_path / "evaluate")) == json.dumps(json.loads(results.read_text()))


@pytest.mark.parametrize("split", ["test", "val"])
def test_without_other_validation_samples_no_threshold_is_chosen_and_it_is_said(
    split: str, shards: ShardSet, tmp_path: Path
) -> None:
    """On the split `val` itself the thresholds would be those that are best there."""
    more = {"validation": lambda: places("val")} if split == "val" else {}
    rows, said, _ = run_on(shards, tmp_path, split, **more)
    assert "f1" not in rows and "f1_at_0.5" in rows
    assert said == [
        f"toy:{split}: findings: no validation samples of other patients to choose thresholds on; metrics at a default"
        " threshold say so in their names"
    ]


def test_validation_samples_of_evaluated_patients_are_not_used(shards: ShardSet, tmp_path: Path) -> None:
    model = Shy()
    evaluate(
        [model], shards, dataset="toy", split="held_out", places=places("val")[:11], training=lambda: places("train"),
        validation=lambda: places("val")[11:], out=RunFolder(tmp_path), resamples=20, baselines=["majority"],
    )  # fmt: skip
    assert "val0011" not in model.seen and "val0012" in model.seen, "samples 10 and 11 are of one patient"


def test_the_interval_is_that_of_the_few_patients_with_the_finding(shards: ShardSet, tmp_path: Path) -> None:
    """Ten masses of ten patients among forty samples of twenty, all ranked right: as wide as ten patients demand."""
    from scipy.stats import t

    rows, *_ = run_on(shards, tmp_path)
    q = float(t.ppf(0.975, 10 - 1))
    assert rows["auroc:findings:mass"]["value"] > 0.97 and rows["auroc:findings:mass"]["patients"] == 20
    perfect = [give_scores(make_sample("test", i))[1] for i in range(COUNT)]
    masses = [score for i, score in enumerate(perfect) if i % 4 == 0]
    assert min(masses) > sorted(set(perfect) - set(masses))[-1], "ranked without a mistake"
    assert rows["auroc:findings:mass"]["ci"] == pytest.approx([1 - q * q / (10 + q * q), 1.0], abs=1e-6)


def test_the_interval_of_an_auroc_holds_the_truth_with_few_ill_patients() -> None:
    """A tenth of 30 patients is ill, four scores of a patient are alike, and the AUROC of very many is 0.7. With the
    spread of all 30 patients the interval held it in 0.83 of data sets; see benchmarks/coverage.py."""
    from scipy.stats import norm

    measure = next(measure for measure in find_task("labels").MEASURES if measure.metric == "auroc")
    settings = {"dataset": "", "split": "", "resamples": 200, "seed": 0}
    rng, hits = np.random.default_rng(0), []
    for _ in range(60):
        ill = np.repeat(rng.random(30) < 0.1, 4)
        scores = np.repeat(rng.normal(size=30), 4) * 0.3**0.5 + rng.normal(size=120) * 0.7**0.5
        items = np.stack([scores + norm.ppf(0.7) * 2**0.5 * ill, ill], axis=1)
        if ill.any():
            part = Part(range(120), {"answer": items}, [n // 4 for n in range(120)])
            hits.append((make_row(measure, "auroc", [part], settings)["ci"], ill.sum() // 4))
    assert all((bounds is None) == (patients < 2) for bounds, patients in hits)
    held = [bounds[0] <= 0.7 <= bounds[1] for bounds, _ in hits if bounds]
    assert len(held) > 40 and np.mean(held) >= 0.92


class Dying(Shy):
    def decode(self, asks: Sequence[Ask]) -> list[Any]:
        if self.seen:
            raise MemoryError
        return super().decode(asks)


def test_after_a_stop_validation_samples_are_not_asked_again(shards: ShardSet, tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "dataset": "toy", "split": "test", "places": places("test"), "training": lambda: places("train"),
        "validation": lambda: places("val"), "resamples": 20,
    }  # fmt: skip
    with pytest.raises(MemoryError):
        evaluate([Dying()], shards, out=RunFolder(tmp_path / "stopped"), **asked)
    model, whole = Shy(), RunFolder(tmp_path / "whole")
    evaluate([model], shards, out=RunFolder(tmp_path / "stopped"), **asked)
    assert "test0000" in model.seen and "val0000" not in model.seen
    evaluate([Shy()], shards, out=whole, **asked)
    assert RunFolder(tmp_path / "stopped").results.read_bytes() == whole.results.read_bytes()
