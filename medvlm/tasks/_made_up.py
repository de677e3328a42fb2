"""What the made-up samples of a rehearsal are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

WORDS = (
    "clear",
    "opacity",
    "left",
    "right",
    "upper",
    "lower",
    "zone",
    "effusion",
    "nodule",
    "normal",
    "heart",
    "lung",
    "small",
    "large",
    "no",
    "seen",
)


def make_question(rng: np.random.Generator, task: str) -> str:
    return f"{task}: {' '.join(rng.choice(WORDS, 4))}?"


def draw_answer(rng: np.random.Generator) -> tuple[int, str]:
    """A number from 0 to 3, and `yes` or `no`. Each task draws both and uses what it needs."""
    return int(rng.integers(4)), str(rng.choice(["yes", "no"]))
