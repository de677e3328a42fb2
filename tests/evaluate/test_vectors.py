"""What vectors of an encoder know: nearest neighbours and a linear probe, against references and planted vectors."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.config import component
from medvlm.core.protocols import Row
from medvlm.core.run import RunFolder
from medvlm.core.sample import Sample
from medvlm.core.terminology import Terminology
from medvlm.evaluate.compare import compare
from medvlm.evaluate.protocols import knn, linear_probe, zero_shot
from medvlm.evaluate.protocols._vectors import keep_few
from medvlm.evaluate.run import evaluate
from medvlm.io.shards import ShardSet
from tests.evaluate.toy import Noisy, write_shards


class Seeing(Noisy):
    """Its vectors hold the side of the finding, if it sees, and noise."""

    can = frozenset({"represent"})

    def __init__(self, sees: bool) -> None:
        super().__init__()
        self.sees, self.identity = sees, {"model": f"sees {sees}"}
        self.embedded: list[str] = []

    def embed_each(self, sample: Sample, files: Any) -> Iterator[torch.Tensor]:
        self.embedded.append(sample.key)
        rng = random.Random(sample.key)
        noise = [rng.gauss(0, 0.3) for _ in range(6)]
        side = 1.0 if sample.questions[0].truth.answer == "left" else -1.0
        yield torch.tensor([side * self.sees + noise[0], *noise[1:]])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("toy"), {"train": 120, "test": 80})


def probe(sees: bool, shards: ShardSet, folder: Path) -> dict[str, Row]:
    model = Seeing(sees)
    training, places = ([(split, i) for i in range(shards.count(split))] for split in ("train", "test"))
    rows = evaluate(
        [model], shards, dataset="toy", split="test", places=places, training=lambda: training,
        out=RunFolder(folder), protocols=["knn", "linear_probe", "neighbours"], resamples=200,
    )  # fmt: skip
    assert len(set(model.embedded)) == len(model.embedded) == 200, "all protocols use the same vectors"
    return {f"{row['task']} {row['metric']}": row for row in rows}


def test_what_the_vectors_hold_is_found_and_what_they_lack_is_not(shards: ShardSet, tmp_path: Path) -> None:
    seen, blind = probe(True, shards, tmp_path / "seen"), probe(False, shards, tmp_path / "blind")
    for group in ("knn", "linear_probe"):
        assert seen[f"{group} accuracy:side"]["value"] > 0.95
        assert seen[f"{group} accuracy:side"]["paired"]["verdict"] == "better"  # type: ignore[index]
        assert seen[f"{group} accuracy:side"]["baselines"]["majority"] == pytest.approx(0.6, abs=0.15)
        assert blind[f"{group} accuracy:side"]["value"] < 0.7
        assert blind[f"{group} accuracy:side"]["paired"]["verdict"] != "better"  # type: ignore[index]
        assert {row.partition(":")[2] for row in seen} == {"", "side", "count:nodule"}, "no free texts, no boxes"
    assert seen["neighbours recall1:side"]["value"] > 0.95 > 0.85 > blind["neighbours recall1:side"]["value"]
    assert seen["neighbours map:side"]["paired"]["verdict"] == "better"  # type: ignore[index]
    assert blind["neighbours map:side"]["paired"]["verdict"] != "better"  # type: ignore[index]
    assert seen["neighbours recall1:side"]["baselines"]["chance"] == pytest.approx(0.5, abs=0.1)
    assert seen["knn accuracy"]["n"] == 160 and seen["knn accuracy:side"]["patients"] == 40


def test_two_encoders_are_compared_on_the_same_questions(shards: ShardSet, tmp_path: Path) -> None:
    for name in ("blind", "seen", "again"):
        probe(name != "blind", shards, tmp_path / name)
    found = compare({name: [tmp_path / name / "evaluate"] for name in ("blind", "seen")})
    rows = {f"{each.task} {each.metric}": each for each in found}
    for group in ("knn", "linear_probe"):
        one = rows[f"{group} accuracy:side"]
        answers = {
            name: [
                json.loads(line) for line in (tmp_path / name / "evaluate" / f"{group}.jsonl").read_text().splitlines()
            ]
            for name in ("blind", "seen")
        }
        right = {
            n: np.mean([r["found"] == r["expected"] for r in a if r["template"] == "side"]) for n, a in answers.items()
        }
        assert one.difference == pytest.approx(right["seen"] - right["blind"], abs=1e-3) and one.difference > 0.2
        assert one.ci is not None and one.ci[0] > 0 and one.patients == 40
    same = compare({name: [tmp_path / name / "evaluate"] for name in ("seen", "again")})
    assert all(each.difference == 0 for each in same)


@pytest.mark.parametrize("kind", ["knn", "linear_probe"])
def test_few_answers_are_the_same_few_for_every_model(kind: str, shards: ShardSet, tmp_path: Path) -> None:
    known = [(n, "left" if n % 5 else "right") for n in range(100)]
    keys = [f"sample{n}" for n in range(100)]
    few = keep_few(known, keys, 8, seed=1)
    assert Counter(answer for _, answer in few) == {"left": 8, "right": 8} and set(few) <= set(known)
    assert few == keep_few(known, keys, 8, seed=1) != keep_few(known, keys, 8, seed=2)
    assert len(keep_few(known, keys, 30, seed=1)) == 30 + 20, "there are 20 of one of them"
    training, places = ([(split, i) for i in range(shards.count(split))] for split in ("train", "test"))
    model = Seeing(True)
    config = component("evaluate.protocols", kind).Config(per_answer=2)
    rows = evaluate(
        [model], shards, dataset="toy", split="test", places=places, training=lambda: training,
        out=RunFolder(tmp_path), protocols=[config], resamples=50,
    )  # fmt: skip
    (side,) = (row for row in rows if row["metric"] == "accuracy:side")
    assert side["baselines"]["majority"] == pytest.approx(0.5, abs=0.15), "of equally many answers"


class Matching(Seeing):
    """Images and texts in one space: texts with a side lie on its axis, others anywhere."""

    can = frozenset({"embed"})

    def embed_media(self, items: Any) -> np.ndarray:
        return np.stack([next(self.embed_each(sample, files)).numpy() for sample, files in items])

    def embed_texts(self, texts: Any) -> np.ndarray:
        return np.array(
            [[("left" in text) - ("right" in text) - 0.9 * ("only" in text), 0, 0, 0, 0, 0] for text in texts]
        )


def test_zero_shot_answers_are_those_of_the_nearest_prompts(shards: ShardSet, tmp_path: Path) -> None:
    training, places = ([(split, i) for i in range(shards.count(split))] for split in ("train", "test"))

    def ask(**settings: Any) -> Row:
        rows = evaluate(
            [Matching(True)], shards, dataset="toy", split="test", places=places, training=lambda: training,
            out=RunFolder(tmp_path), protocols=[zero_shot.Config(templates=("side",), **settings)], resamples=50,
        )  # fmt: skip
        (row,) = (row for row in rows if row["metric"] == "accuracy:side")
        return row

    assert ask()["value"] > 0.95
    assert ask(prompts=("A finding on the {answer}.", "On the {answer}."))["value"] > 0.95
    assert ask(prompts=("{answer}: left or right.",))["value"] < 0.7  # one text for both sides decides nothing
    swapped = Terminology(version="1", entries={"left": ("the right", "right"), "right": ("the left",)})
    assert ask(dictionary=swapped)["value"] < 0.05
    with pytest.raises(ValueError, match=r"has no \{answer\}"):
        zero_shot.Config(prompts=("left",))


def test_a_linear_probe_is_the_logistic_regression_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    vectors_NE, classes_N = rng.normal(size=(90, 5)), rng.integers(0, 3, 90)
    vectors_NE[:, 0] += classes_N
    theirs = linear_model.LogisticRegression(C=0.7, tol=1e-10, max_iter=5000).fit(vectors_NE, classes_N)
    weights_AE, bias_A = linear_probe.fit(0.7, vectors_NE, classes_N, 3)
    assert weights_AE == pytest.approx(theirs.coef_, abs=1e-4)
    assert bias_A - bias_A.mean() == pytest.approx(theirs.intercept_ - theirs.intercept_.mean(), abs=1e-4)


def test_neighbours_vote_with_their_similarity() -> None:
    train_NE = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8], [-1.0, 0.0]])
    answers = ["near", "far", "far", "away"]
    test_ME = np.array([[1.0, 0.0]])
    assert knn.vote(3, 0.07, train_NE, answers, test_ME) == ["near"]  # exp(0) against 2 exp(-0.4 / 0.07)
    assert knn.vote(3, 1.0, train_NE, answers, test_ME) == ["far"]  # 1 against 2 exp(-0.4)
    assert knn.vote(1, 1.0, train_NE, answers, test_ME) == ["near"]
