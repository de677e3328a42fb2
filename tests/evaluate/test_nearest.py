"""The `nearest` baseline finds the training image that looks most alike, and says its report."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medvlm.core.ask import Ask
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.evaluate.protocols._nearest import GRID, Nearest, fit_nearest, shrink
from medvlm.io.images import decode, encode_png

SIZE = 64
ROUND, SQUARE = "A round mass.", "A square implant."


class Sees:
    """The stored picture as it is; it is asked nothing else."""

    def draw_thumbnail(self, ask: Ask) -> bytes:
        return ask.files["0.png"]


MODEL: Any = Sees()


def draw(shape: str, noise: int, brightness: int = 100) -> bytes:
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    inside = x**2 + y**2 < 200 if shape == ROUND else (abs(x) < 24) & (abs(y) < 6)
    rng = np.random.default_rng(noise)
    return encode_png((inside * brightness + rng.integers(0, 40, (SIZE, SIZE))).astype(np.uint8))


def make(number: int, report: str, template: str = "report", brightness: int = 100) -> tuple[Sample, dict[str, bytes]]:
    question = Question("Describe.", make_truth("report", report), template)
    media = (Medium("film", "0.png", (SIZE, SIZE)),)
    sample = Sample(f"s{number}", "toy", "train", media, questions=(question,))
    return sample, {"0.png": draw(report, number, brightness)}


def fit(samples: list[tuple[Sample, dict[str, bytes]]]) -> Nearest:
    split: Any = SimpleNamespace(
        shards=SimpleNamespace(read=lambda split, i: samples[i]),
        training=lambda: [("train", i) for i in range(len(samples))],
        progress=lambda what, done, total: None,
        notes=[],
    )
    return fit_nearest(MODEL, split, lambda question: True)


def ask(sample: tuple[Sample, dict[str, bytes]]) -> Ask:
    return Ask(*sample, sample[0].questions[0])


def test_says_the_report_of_the_image_that_looks_alike() -> None:
    nearest = fit([make(i, (ROUND, SQUARE)[i % 2]) for i in range(8)])
    for number, report in enumerate([SQUARE, ROUND, ROUND]):
        darker = make(100 + number, report, brightness=60)
        assert nearest.answer(ask(darker)) == report, "brightness does not count"


def test_only_training_samples_that_are_asked_the_same_are_compared() -> None:
    training = [make(0, ROUND, "impression"), make(1, SQUARE), make(2, SQUARE)]
    nearest = fit(training)
    assert nearest.answer(ask(make(9, ROUND))) == SQUARE
    assert nearest.answer(ask(make(9, ROUND, "another"))) is None
    without_image = Sample("s", "toy", "test", (), questions=make(9, ROUND)[0].questions)
    assert nearest.answer(Ask(without_image, {}, without_image.questions[0])) is None


def test_pictures_are_means_of_blocks_without_brightness() -> None:
    sample = make(3, SQUARE)
    pixels = decode(sample[1]["0.png"], "0.png").astype(float)
    blocks = pixels.reshape(GRID, SIZE // GRID, GRID, SIZE // GRID).mean(axis=(1, 3)).ravel()
    expected = (blocks - blocks.mean()) / np.linalg.norm(blocks - blocks.mean())
    shrunk = shrink(MODEL, ask(sample))
    assert np.abs(shrunk - expected).max() < 0.01 and np.linalg.norm(shrunk) == pytest.approx(1)


def test_without_training_samples_it_answers_nothing() -> None:
    assert fit([]).answer(ask(make(9, ROUND))) is None
