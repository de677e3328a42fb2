"""Samples with real pictures, and planted models that read them: sturdy ones, and ones that depend on something."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.core.ask import Ask
from medvlm.core.protocols import Place, Row
from medvlm.core.run import RunFolder
from medvlm.core.sample import Medium, Question, Sample, Truth, make_truth
from medvlm.evaluate.run import evaluate
from medvlm.evaluate.saved import rescore
from medvlm.io.images import decode, encode_png
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet, ShardWriter

FINDINGS = ("cyst", "stone", "mass", "node")
SIZE = (48, 64)


def find_side(key: str) -> str:
    return random.Random(f"{key} side").choice(("left", "right"))


def find_finding(key: str) -> str:
    return random.Random(f"{key} finding").choice(FINDINGS)


def make_picture(side: str, number: int) -> np.ndarray:
    """A bright half. Its first pixel is exactly 200 on the left and 199 on the right."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(60, 90, SIZE)
    pixels[:, :32] += 70 if side == "left" else 0
    pixels[:, 32:] += 0 if side == "left" else 70
    pixels[0, 0] = 200 if side == "left" else 199
    return pixels.astype(np.uint8)


def make_sample(split: str, i: int) -> tuple[Sample, dict[str, bytes]]:
    """Two samples a patient. Every third is of site b and an MR."""
    key = f"{split}{i:03d}"
    lines = "\n".join(f"{letter}: {name}" for letter, name in zip("ABCD", FINDINGS, strict=True))
    letter = "ABCD"[FINDINGS.index(find_finding(key))]
    questions = (
        Question("Which side is bright?", make_truth("choice", find_side(key), choices=("left", "right")), "side"),
        Question(f"What is it?\n{lines}", make_truth("choice", letter, choices=("A", "B", "C", "D")), "letter"),
        Question("Name it.", make_truth("open", find_finding(key)), "name"),
    )
    medium = Medium("film", "0.png", SIZE, modality="MR" if i % 3 == 0 else "CT")
    sample = Sample(
        key, "pictures", split, (medium,), questions=questions, patient=f"{split} {i // 2}",
        groups={"site": "b" if i % 3 == 0 else "a"},
    )  # fmt: skip
    return sample, {"0.png": encode_png(make_picture(find_side(key), i))}


def write_shards(folder: Path, sizes: Mapping[str, int]) -> ShardSet:
    for split, size in sizes.items():
        with ShardWriter(folder, split) as writer:
            for i in range(size):
                writer.write(*make_sample(split, i))
    return open_shards(folder)


class Reader:
    """Sees which half is bright, knows the finding, and reads the options."""

    can = frozenset({"answer"})

    def __init__(self) -> None:
        self.identity: Mapping[str, Any] = {"model": type(self).__name__}
        self.asked: list[tuple[str, str, str, str]] = []

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        for ask in asks:
            shown = ask.media_of[0].key if ask.media_of else ask.sample.key if ask.shows == "media" else ""
            self.asked.append((ask.sample.key, ask.question.template, ask.question.text, shown))
        return [self.say(ask) for ask in asks]

    def say(self, ask: Ask) -> str:
        template = ask.question.template
        if template == "side":
            return self.see(ask)
        if template == "name":
            return find_finding(ask.sample.key)
        return self.choose(ask.question.text, find_finding(ask.sample.key))

    def see(self, ask: Ask) -> str:
        if ask.shows == "none":
            return "left"
        pixels = self.read(ask)
        return "left" if pixels[:, :32].mean() > pixels[:, 32:].mean() else "right"

    def read(self, ask: Ask) -> np.ndarray:
        _, files = ask.media_of or (ask.sample, ask.files)
        return decode(files["0.png"], "0.png")

    def choose(self, text: str, finding: str) -> str:
        found = re.search(rf"^([A-D]): {finding}$", text, re.MULTILINE)
        assert found is not None, text
        return found[1]

    def place_truth(self, ask: Ask) -> Truth:
        return ask.question.truth

    def find_box_extent(self, ask: Ask) -> tuple[float, float]:
        return 1000, 1000

    def draw_thumbnail(self, ask: Ask) -> bytes:
        return encode_png(self.read(ask))


def evaluate_pictures(
    model: Any, shards: ShardSet, folder: Path, protocol: Any, split: str = "test", **settings: Any
) -> tuple[dict[str, Row], list[str]]:
    """Metric -> row, and what the user is told."""
    said: list[str] = []

    def list_places(name: str) -> list[Place]:
        return [(name, i) for i in range(shards.count(name))] if name in shards.splits else []

    rows = evaluate(
        [model], shards, dataset="pictures", split=split, places=list_places(split),
        training=lambda: list_places("train"), find_split=list_places,
        out=RunFolder(folder), protocols=[protocol], resamples=100, say=said.append, **settings,
    )  # fmt: skip
    assert rescore(folder / "evaluate") == rows
    return {row["metric"]: row for row in rows}, said
