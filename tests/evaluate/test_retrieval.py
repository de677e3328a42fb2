"""Retrieval: recall in both directions and images of the same class, against torchmetrics and scikit-learn."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.protocols import Row
from medvlm.core.run import RunFolder
from medvlm.core.sample import Medium, Sample
from medvlm.evaluate.protocols import retrieval
from medvlm.evaluate.protocols.retrieval import Config
from medvlm.evaluate.run import evaluate
from medvlm.evaluate.saved import rescore
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet, ShardWriter
from medvlm.metrics.retrieval import average_precision, chance_at, chance_of_average_precision, sort_hits

CLASSES = ("effusion", "nodule", "edema", "fracture")
COUNT, WIDTH = 60, 6


def vector_of(text: str, *parts: str) -> np.ndarray:
    rng = random.Random(text)
    return np.array([rng.gauss(0, 1) for _ in range(WIDTH)]) + sum(vector_of(part) * 0.8 for part in parts)


def scale(vectors_NE: np.ndarray) -> np.ndarray:
    return vectors_NE / np.linalg.norm(vectors_NE, axis=1, keepdims=True)


class Towers:
    """Images lie near the direction of their class, and of their patient; texts near that of their first word."""

    can = frozenset({"embed"})

    def __init__(self, of_patient: float = 0.0):
        self.of_patient, self.identity = of_patient, {"model": f"towers {of_patient}"}

    def embed_media(self, items: Sequence[tuple[Sample, Mapping[str, bytes]]]) -> np.ndarray:
        own = [vector_of(s.key, s.groups["kind"]) + self.of_patient * vector_of(s.patient) for s, _ in items]
        return scale(np.stack(own))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return scale(np.stack([vector_of(text, text.split()[0]) for text in texts]))


def make(i: int) -> Sample:
    """Two images a patient, every fifth without a report; the last image is alone in its class."""
    kind = "rare" if i == COUNT - 1 else CLASSES[random.Random(i).randrange(4)]
    sample = Sample(f"s{i:03d}", "films", "test", (Medium("film", "0.bin", (8, 8)),), patient=f"p{i // 2}")
    report = "" if i % 5 == 0 else f"{kind} number {i // 3}."
    return replace(sample, report=report, groups={"kind": kind})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("films")
    with ShardWriter(folder, "test") as writer:
        for i in range(COUNT):
            writer.write(make(i), {"0.bin": b"pixels"})
    return open_shards(folder)


def run_on(model: Any, shards: ShardSet, folder: Path, **settings: Any) -> tuple[dict[str, Row], list[str]]:
    said: list[str] = []
    rows = evaluate(
        [model], shards, dataset="films", split="test", places=[("test", i) for i in range(COUNT)],
        training=lambda: [], out=RunFolder(folder), protocols=[Config(**settings)], resamples=50, say=said.append,
    )  # fmt: skip
    assert rescore(folder / "evaluate") == rows
    return {row["metric"]: row for row in rows}, said


@pytest.fixture(scope="module")
def samples(shards: ShardSet) -> list[Sample]:
    return [shards.read("test", i)[0] for i in range(COUNT)]


def test_recall_is_that_of_torchmetrics(shards: ShardSet, samples: list[Sample], tmp_path: Path) -> None:
    theirs = pytest.importorskip("torchmetrics.retrieval")
    rows, _ = run_on(Towers(), shards, tmp_path, alike="kind")
    told = [sample for sample in samples if sample.report]
    texts = list(dict.fromkeys(sample.report for sample in told))
    similarity_NC = Towers().embed_media([(s, {}) for s in told]).astype(np.float32) @ Towers().embed_texts(texts).T
    is_target_NC = np.array([[sample.report == text for text in texts] for sample in told])
    for way, scores, targets in (
        ("image_to_text", similarity_NC, is_target_NC),
        ("text_to_image", similarity_NC.T, is_target_NC.T),
    ):
        of_query = torch.arange(len(scores))[:, None].expand(scores.shape).flatten()
        for k in (1, 5, 10):
            metric = theirs.RetrievalHitRate(top_k=k)
            expected = metric(torch.tensor(scores).flatten(), torch.tensor(targets).flatten(), indexes=of_query)
            row = rows[f"{way}_top{k}"]
            assert row["value"] == pytest.approx(float(expected), abs=1e-6), (way, k)
            assert row["n"] == len(scores) and row["patients"] <= 30
            assert row["baselines"]["chance"] == pytest.approx(
                np.mean([guess(k, target) for target in targets]), abs=0.02
            )


def guess(k: int, is_right_C: np.ndarray) -> float:
    """Recall of random orders."""
    rng = np.random.default_rng(0)
    return float(np.mean([rng.permutation(is_right_C)[:k].any() for _ in range(200)]))


def test_images_of_a_class_are_found_as_torchmetrics_and_scikit_learn_say(
    shards: ShardSet, samples: list[Sample], tmp_path: Path
) -> None:
    theirs, ranking = pytest.importorskip("torchmetrics.retrieval"), pytest.importorskip("sklearn.metrics")
    rows, said = run_on(Towers(), shards, tmp_path, alike="kind")
    vectors_NE = Towers().embed_media([(s, {}) for s in samples]).astype(np.float32)
    scores, targets, queries, precisions = [], [], [], []
    for number, sample in enumerate(samples[:-1]):  # nobody else is like the last one
        others = [n for n, other in enumerate(samples) if other.patient != sample.patient]
        own = vectors_NE[others] @ vectors_NE[number]
        target = np.array([samples[n].groups["kind"] == sample.groups["kind"] for n in others])
        scores.append(torch.tensor(own))
        targets.append(torch.tensor(target))
        queries.append(torch.full((len(others),), number))
        precisions.append(ranking.average_precision_score(target, own))
    joined = torch.cat(scores), torch.cat(targets)
    for k in (1, 5, 10):
        expected = theirs.RetrievalPrecision(top_k=k)(*joined, indexes=torch.cat(queries))
        assert rows[f"image_to_image_precision{k}"]["value"] == pytest.approx(float(expected), abs=1e-6)
    assert rows["image_to_image_map"]["value"] == pytest.approx(np.mean(precisions), abs=1e-6)
    assert rows["image_to_image_map"]["n"] == COUNT - 1 and rows["image_to_image_map"]["patients"] == 30
    assert rows["image_to_image_map"]["paired"]["verdict"] == "better"  # type: ignore[index]
    assert said == [
        "films:test: 1 questions are left out of retrieval: image to image: no other patient has the kind of an image"
    ]


def test_an_image_never_finds_its_own_patient(shards: ShardSet, tmp_path: Path) -> None:
    """Vectors of patients alone: with the patient's other image as a candidate, half of the neighbours were of a class
    by chance of the pair, not by that of all."""
    rows, _ = run_on(Towers(of_patient=50.0), shards, tmp_path, alike="kind")
    records = [json.loads(line) for line in (tmp_path / "evaluate/retrieval.jsonl").read_text().splitlines()]
    found = [record for record in records if record["direction"] == "image_to_image"]
    assert {record["candidates"] for record in found} == {COUNT - 2}
    value, chance = rows["image_to_image_precision1"]["value"], rows["image_to_image_precision1"]["baselines"]["chance"]
    assert value == pytest.approx(chance, abs=0.2)


def test_without_classes_there_are_no_rows_of_images_and_it_is_said(shards: ShardSet, tmp_path: Path) -> None:
    rows, said = run_on(Towers(), shards, tmp_path / "none", alike="scanner")
    assert {name.rpartition("_")[0] for name in rows} == {"image_to_text", "text_to_image"}
    assert said == ["films:test: retrieval.alike: the images do not have two different 'scanner'; no rows"]
    rows, said = run_on(Towers(), shards, tmp_path / "default")
    assert "image_to_image_map" not in rows and said == []


def test_equal_similarities_find_nothing() -> None:
    is_right = np.array([True, False, True, False])
    assert sort_hits(np.zeros(4), is_right).tolist() == [False, False, True, True]
    assert sort_hits(np.array([np.nan, 0.1, 0.2, 0.0]), is_right).tolist() == [True, False, False, True]


@pytest.mark.parametrize(("right", "candidates"), [(1, 1), (1, 7), (3, 7), (7, 7)])
def test_chance_levels_are_the_means_of_all_orders(right: int, candidates: int) -> None:
    rng = np.random.default_rng(0)
    is_right = np.arange(candidates) < right
    orders = [rng.permutation(is_right) for _ in range(5000)]
    measured = np.mean([average_precision(order) for order in orders])
    assert chance_of_average_precision(right, candidates) == pytest.approx(measured, abs=0.02)
    for k in range(1, candidates + 1):
        assert chance_at(k, right, candidates) == pytest.approx(np.mean([o[:k].any() for o in orders]), abs=0.02)


def test_records_of_the_first_release_still_have_recall_at_one() -> None:
    old = [{"direction": "image_to_text", "key": "a", "cluster": n, "rank": n, "chance": 0.25} for n in range(4)]
    settings = {"dataset": "d", "split": "test", "baselines": [], "resamples": 20, "seed": 0}
    (row,) = retrieval.rows_of(old, settings)
    assert row["metric"] == "image_to_text_top1" and row["value"] == 0.25 and row["baselines"] == {"chance": 0.25}
