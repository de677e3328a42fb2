"""A reader: films of a bright bar at a known angle, made from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medvlm.core import config
from medvlm.core.contracts import RawSample
from medvlm.core.sample import Medium, Question, Sample, make_truth

STEP = 15
"""Degrees between two angles."""


class Config(config.Config):
    kind: Literal["mylab.bars"]
    films: int = Field(gt=0)
    film_px: int = 32
    seed: int = 0


def read(config: Config, root: Path | None) -> Iterator[RawSample]:
    """One sample a film; two films a patient. Nothing is read from `root`."""
    for index in range(config.films):
        rng = np.random.default_rng([config.seed, index])
        degrees = STEP * int(rng.integers(180 // STEP))
        leans = "left" if degrees > 90 else "right"
        questions = (
            Question("How many degrees is the bar tilted?", make_truth("mylab.angle", degrees=degrees), "tilt"),
            Question("Which way does it lean?", make_truth("choice", leans, choices=("left", "right")), "lean"),
        )
        medium = Medium("film", "0.png", (config.film_px, config.film_px))
        report = f"A bar that leans to the {leans} by {degrees} degrees."
        sample = Sample(
            f"bar-{index}", "", "", (medium,), report, f"{degrees} degrees", questions, patient=f"p{index // 2}"
        )
        yield RawSample(sample, {"0.png": draw(rng, degrees, config.film_px)})


def draw(rng: np.random.Generator, degrees: int, side: int) -> np.ndarray:
    """uint8 [side, side]. Angles count against the clock from the horizontal."""
    row, column = np.mgrid[:side, :side] - (side - 1) / 2
    across = np.sin(np.deg2rad(degrees)) * column + np.cos(np.deg2rad(degrees)) * row
    film = np.where(np.abs(across) < side / 12, 200, 40) + rng.normal(0, 12, (side, side))
    return film.clip(0, 255).astype(np.uint8)
