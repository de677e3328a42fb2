"""The answers of every protocol, scored again by another process, give the same bytes; and every result says what it
was measured with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.ask import Ask
from medvlm.core.config import kinds
from medvlm.core.protocols import FOLDER, Row
from medvlm.core.run import RunFolder
from medvlm.core.sample import Question, Sample, make_truth
from medvlm.evaluate.protocols import refusals
from medvlm.evaluate.run import evaluate
from medvlm.evaluate.saved import SETTINGS, read_saved
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet, ShardWriter
from medvlm.tasks.labels import Truth
from tests.evaluate.toy import Noisy, axis_of, make_sample

SAMPLES = 24
OF_PICTURES = {"corruptions", "option_orders", "rewordings", "shift"}
"""Need real pictures and settings of their own: `evaluate_pictures` scores their answers again in every test."""
OF_MASKS = {"u_score", "whole_boxes", "whole_masks"}
"""Need masks or boxes: test_u_score.py and test_whole_boxes.py beside it."""
STEPS = {"modality": "Chest radiograph", "feature": "a round opacity"}


class Able(Noisy):
    """Can do what any protocol asks for."""

    can = frozenset({"answer", "draw", "weigh", "embed", "represent", "decode"})
    identity = {"model": "able", "max_new_tokens": 16}

    def draw(self, asks: Sequence[Ask], copies: int, temperature: float, seed: int) -> list[list[str]]:
        return [[self._answer(ask), *["liver"] * (copies - 1)] for ask in asks]

    def weigh(self, asks: Sequence[Ask], texts: Sequence[Sequence[str]]) -> list[list[tuple[float, int]]]:
        return [[(-float(len(text)), len(text.split())) for text in own] for own in texts]

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack(
            [super(Able, self).embed_texts([text])[0] if "odule" in text else axis_of("") for text in texts]
        )

    def embed_each(self, sample: Sample, files: Any) -> Iterator[torch.Tensor]:
        yield torch.tensor([float(sample.questions[0].truth.answer == "left"), len(sample.key) / 7, 1.0])

    def can_answer(self, question: Question) -> bool:
        return isinstance(question.truth, Truth)

    def decode(self, asks: Sequence[Ask]) -> list[Any]:
        return [[0.7, 0.2 + 0.1 * (int(ask.sample.key[-1]) % 3)] for ask in asks]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("toy")
    for split in ("train", "test"):
        with ShardWriter(folder, split) as writer:
            for i in range(SAMPLES):
                sample, files = make_sample(split, i)
                side, *others = sample.questions
                labels = Truth(classes=("edema", "mass"), labels=(i % 3 == 0, i % 2 == 0), exclusive=False)
                pair = make_truth("preference", "A nodule.", rejected=f"A mass{' or two' * (i % 2)}.")
                asked = (replace(side, steps=STEPS), *others, Question("What is there?", labels, "findings"))
                asked += (Question("Describe it.", pair, "pair"),)
                writer.write(replace(sample, questions=asked), files)
    return open_shards(folder)


def find_settings(kind: str) -> Any:
    return refusals.Config(unanswerable=("place",)) if kind == "refusals" else kind


@pytest.fixture(scope="module")
def done(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, list[Row]]:
    run = RunFolder(tmp_path_factory.mktemp("run"))
    training, places = ([(split, i) for i in range(SAMPLES)] for split in ("train", "test"))
    rows = evaluate(
        [Able()], shards, dataset="toy", split="test", places=places, training=lambda: training, out=run,
        protocols=[find_settings(kind) for kind in kinds(FOLDER) if kind not in OF_PICTURES | OF_MASKS], resamples=20,
        recipe="a" * 64,
    )  # fmt: skip
    return run, rows


@pytest.mark.slow
def test_every_protocol_scores_to_the_same_bytes_in_another_process(done: tuple[RunFolder, list[Row]]) -> None:
    run, _ = done
    (saved,) = read_saved(run.answers.parent)
    assert {kind for kind, records in saved.records.items() if records} | OF_PICTURES | OF_MASKS == set(kinds(FOLDER))
    code = (
        "import json, sys; from pathlib import Path; from medvlm.evaluate.saved import rescore;"
        "print(json.dumps(rescore(Path(sys.argv[1])), indent=1, ensure_ascii=False))"
    )
    again = subprocess.run(
        [sys.executable, "-c", code, str(run.answers.parent)],
        env={**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "2"}, check=True, capture_output=True,
    ).stdout  # fmt: skip
    assert again == run.results.read_bytes()


def test_every_result_says_what_it_was_measured_with(done: tuple[RunFolder, list[Row]], shards: ShardSet) -> None:
    run, rows = done
    settings = json.loads((run.answers.parent / SETTINGS).read_text())[0]
    assert settings["environment"]["packages"]["torch"] and rows
    for row in rows:
        measured = row["measured"]
        assert all(value is not None for value in measured.values()), row
        assert (measured["data"], measured["recipe"]) == (shards.fingerprint, "a" * 64)
        assert measured["decoding"]["max_new_tokens"] == 16
    prompts = {row["task"]: row["measured"]["prompt"] for row in rows}
    assert prompts["vqa"] != prompts["retrieval"], "other questions"


def test_other_questions_and_another_model_are_told_apart(done: tuple[RunFolder, list[Row]], tmp_path: Path) -> None:
    from medvlm.evaluate.saved import rescore

    run, rows = done
    for path in run.answers.parent.glob("*.json*"):
        text = path.read_text().replace("Which side?", "On which side?").replace('"able"', '"other"')
        (tmp_path / path.name).write_text(text)
    for before, after in zip(rows, rescore(tmp_path), strict=True):
        assert before["value"] == after["value"]
        assert before["measured"]["model"] != after["measured"]["model"]  # type: ignore[index]
    assert sum(a["measured"]["prompt"] != b["measured"]["prompt"] for a, b in zip(rows, rescore(tmp_path), strict=True))
