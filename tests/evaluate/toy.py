"""A small data set in real shards, and an answerer that reads what a sample's `image` holds, with a known share of
mistakes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.core.ask import Ask
from medvlm.core.protocols import Row
from medvlm.core.run import RunFolder
from medvlm.core.sample import Medium, Question, Sample, Truth, make_truth
from medvlm.evaluate.run import evaluate
from medvlm.io.images import encode_png
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet, ShardWriter
from medvlm.tasks import _brackets as boxes

HEIGHT, WIDTH = 100, 200
NOISE = 0.3
PLACES = ("apex of the lung", "hilum", "lung base")


def make_sample(split: str, i: int) -> tuple[Sample, dict[str, bytes]]:
    """Two samples a patient; 60 % of the findings are on the left. The `image` is the list of its own right answers."""
    rng = random.Random(f"{split} {i}")
    side, count, place = ("left" if rng.random() < 0.6 else "right"), rng.randint(0, 9), rng.choice(PLACES)
    x, y = (20 if side == "left" else 120) + rng.randint(0, 10), rng.randint(0, 50)
    box = (float(x), float(y), x + 40.0, y + 30.0)
    questions = (
        Question("Which side?", make_truth("choice", side, choices=("left", "right")), "side"),
        Question("Where exactly?", make_truth("open", place), "place"),
        Question("Is it at the hilum?", make_truth("open", "yes" if place == "hilum" else "no"), "closed:hilum"),
        Question("How many?", make_truth("count", str(count), count=count, label="nodule"), "count:nodule"),
        Question("Locate it.", make_truth("boxes", boxes=(box,), label="nodule"), "boxes:nodule"),
        Question("Describe.", make_truth("report", f"{count} nodules."), "report"),
    )
    concept = f"{side} {place}"
    media = (Medium("film", "0.bin", (HEIGHT, WIDTH)),)
    wording = rng.choice(("A nodule", "There is a nodule"))
    sample = Sample(
        f"{split}{i:04d}",
        "toy",
        split,
        media,
        f"{wording}, {concept}.",
        concept,
        questions,
        patient=f"{split} patient {i // 2}",
    )
    answers = {
        q.template: boxes.write(scaled(q.truth).boxes) if q.truth.task == "boxes" else q.truth.answer for q in questions
    }
    return sample, {"0.bin": json.dumps({"concept": concept, "answers": answers}).encode()}


def scaled(truth: Any) -> Any:
    """Boxes of stored pixels in thousandths of the image."""
    placed = tuple(
        (x1 / WIDTH * 1000, y1 / HEIGHT * 1000, x2 / WIDTH * 1000, y2 / HEIGHT * 1000) for x1, y1, x2, y2 in truth.boxes
    )
    return replace(truth, boxes=placed)


def is_noisy(key: str, template: str) -> bool:
    return int(hashlib.sha256(f"{key} {template}".encode()).hexdigest()[:8], 16) < NOISE * 2**32


class Noisy:
    """Reads the answer from the image it is shown, and errs on 30 % of the (sample, template) pairs. Without an image
    it says a constant."""

    can = frozenset({"answer", "embed"})
    identity: Mapping[str, Any] = {"model": "toy"}
    wrong: Mapping[str, str] = {
        "side": "neither",
        "place": "liver",
        "closed:hilum": "perhaps",
        "count:nodule": "+2",
        "boxes:nodule": "[0, 900, 100, 1000]",
        "report": "A fracture.",
    }
    blind: Mapping[str, str] = {
        "side": "left",
        "place": "hilum",
        "closed:hilum": "no",
        "count:nodule": "4",
        "boxes:nodule": "[125, 200, 325, 500]",
        "report": "4 nodules.",
    }

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        return [self._answer(ask) for ask in asks]

    def _answer(self, ask: Ask) -> str:
        template = ask.question.template
        self.asked.append((ask.sample.key, template, ask.shows if ask.media_of is None else ask.media_of[0].key))
        if ask.shows == "none":
            return self.blind[template]
        _, files = ask.media_of or (ask.sample, ask.files)
        right: str = json.loads(files["0.bin"])["answers"][template]
        if not is_noisy(ask.sample.key, template):
            return right
        return str(int(right) + 2) if self.wrong[template] == "+2" else self.wrong[template]

    def place_truth(self, ask: Ask) -> Truth:
        return scaled(ask.question.truth)

    def find_box_extent(self, ask: Ask) -> tuple[float, float]:
        return 1000, 1000

    def draw_thumbnail(self, ask: Ask) -> bytes:
        return encode_png(np.zeros((8, 16), dtype=np.uint8))

    def embed_media(self, items: Sequence[tuple[Sample, Mapping[str, bytes]]]) -> np.ndarray:
        """The concept's axis, or for noisy samples an axis that belongs to no text."""
        return np.stack(
            [
                axis_of("" if is_noisy(sample.key, "retrieval") else json.loads(files["0.bin"])["concept"])
                for sample, files in items
            ]
        )

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([axis_of(text.rstrip(".").partition(", ")[2]) for text in texts])


def axis_of(concept: str) -> np.ndarray:
    concepts = ["", *(f"{side} {place}" for side in ("left", "right") for place in PLACES)]
    return np.eye(len(concepts))[concepts.index(concept)]


def write_shards(folder: Path, sizes: Mapping[str, int]) -> ShardSet:
    for split, size in sizes.items():
        with ShardWriter(folder, split) as writer:
            for i in range(size):
                writer.write(*make_sample(split, i))
    return open_shards(folder)


def evaluate_toy(model: Noisy, shards: ShardSet, folder: Path, **settings: Any) -> list[Row]:
    """The test split, without the intervals that take long. settings: of `evaluate`."""
    training, places = ([(split, i) for i in range(shards.count(split))] for split in ("train", "test"))
    return evaluate(
        [model],
        shards,
        dataset="toy",
        split="test",
        places=places,
        training=lambda: training,
        out=RunFolder(folder),
        resamples=10,
        **settings,
    )
