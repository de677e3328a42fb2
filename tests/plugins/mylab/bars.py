"""A reader: films of a bright bar at a known angle, made from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medvlm.core import config
from medvlm.core.content import Content, Offer
from medvlm.core.contracts import RawSample
from medvlm.core.sample import Decoded, Medium, Question, Sample, make_truth

STEP = 15
"""Degrees between two angles."""


class Config(config.Config):
    kind: Literal["mylab.bars"]
    films: int = Field(gt=0)
    film_px: int = 32
    seed: int = 0


def list_content(config: Config) -> Content:
    tasks = frozenset({"mylab.angle", "choice", "mask"})
    return Content(tasks, frozenset({"film"}), has_reports=True, answered={"bar": Offer("mask", ("bar",))})


def read(config: Config, root: Path | None) -> Iterator[RawSample]:
    """One sample a film; two films a patient. Nothing is read from `root`."""
    for index in range(config.films):
        rng = np.random.default_rng([config.seed, index])
        degrees = STEP * int(rng.integers(180 // STEP))
        leans = "left" if degrees > 90 else "right"
        questions = (
            Question("How many degrees is the bar tilted?", make_truth("mylab.angle", degrees=degrees), "tilt"),
            Question("Which way does it lean?", make_truth("choice", leans, choices=("left", "right")), "lean"),
            Question("Which pixels show the bar?", make_truth("mask", classes=("bar",), member="0.mask"), "bar"),
        )
        medium = Medium("film", "0.png", (config.film_px, config.film_px))
        report = f"A bar that leans to the {leans} by {degrees} degrees."
        sample = Sample(
            f"bar-{index}", "", "", (medium,), report, f"{degrees} degrees", questions, patient=f"p{index // 2}"
        )
        where = find_bar(degrees, config.film_px)
        yield RawSample(sample, {"0.png": draw(rng, where), "0.mask": Decoded(where.astype(np.uint8))})


def find_bar(degrees: int, side: int) -> np.ndarray:
    """bool [side, side]. Angles count against the clock from the horizontal."""
    row, column = np.mgrid[:side, :side] - (side - 1) / 2
    across = np.sin(np.deg2rad(degrees)) * column + np.cos(np.deg2rad(degrees)) * row
    return np.abs(across) < side / 12


def draw(rng: np.random.Generator, where: np.ndarray) -> np.ndarray:
    """uint8, of the same size."""
    film = np.where(where, 200, 40) + rng.normal(0, 12, where.shape)
    return film.clip(0, 255).astype(np.uint8)
