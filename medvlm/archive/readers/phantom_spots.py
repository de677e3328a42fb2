"""Synthetic chest radiographs from a seed, with a plain mass and faint opacities that are easily missed.

The only question is to mark one finding. Annotators, who know more than the film shows, mark the first opacity that
there is, and the mass only where there is none; but each finding is a right answer. A study is a function of (seed, its
index).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medvlm.archive.phantom.film import FILM_MM
from medvlm.archive.phantom.finding import patient_of
from medvlm.archive.phantom.spots import draw_spots, draw_spots_film
from medvlm.core import config
from medvlm.core.content import Content, name_asked
from medvlm.core.contracts import Deferred, RawSample
from medvlm.core.sample import Medium, Question, Sample, make_truth

ASK = (
    "Mark one finding.",
    "Draw a box around one abnormality.",
    "Where is a finding? One is enough.",
    "Locate a finding.",
)


class Config(config.Config):
    kind: Literal["phantom_spots"]
    seed: int = Field(0, ge=0)
    films: int = Field(gt=0)
    """Number of studies, each with one radiograph."""
    film_px: int = Field(64, ge=32)
    """Height and width of a radiograph."""
    share: float = Field(0.35, gt=0, lt=1)
    """Probability of an opacity in each of the three places. Above 0.32, what is marked most often is an opacity in the
    first one; the mass is marked where there is no opacity, (1 - share) ** 3."""
    contrast: float = Field(2.0, ge=0)
    """Grey levels, of 255, that an opacity adds to the lung. The noise has 4 to 7."""


def read(config: Config, root: Path | None) -> Iterator[Deferred]:
    """Drawn in the decoder processes. `root` is not used."""
    for index in range(config.films):
        yield Deferred(_name(index), partial(make_study, config, index))


def list_content(config: Config) -> Content:
    return Content(
        tasks=name_asked(boxes=True), media=frozenset({"film"}), has_reports=False, answered={}, splits=frozenset()
    )


def count(config: Config, root: Path | None) -> int:
    return config.films


def make_study(config: Config, index: int) -> RawSample:
    rng = np.random.default_rng([config.seed, 5, index])
    spots = draw_spots(rng, config.share)
    film = draw_spots_film(rng, spots, config.contrast, config.film_px)
    truth = make_truth("boxes", boxes=film.boxes, label="finding", any_of=True)
    question = Question(ASK[int(rng.integers(len(ASK)))], truth, "boxes:any")
    spacing_mm = FILM_MM / config.film_px
    medium = Medium("film", "0.png", film.pixels.shape, (spacing_mm, spacing_mm), "display", "DX")
    concept = "|".join(spots) or "mass"
    sample = Sample(_name(index), "", "", (medium,), "", concept, (question,), patient_of(index))
    return RawSample(sample, {"0.png": film.pixels})


def _name(index: int) -> str:
    return f"film-{index:06d}"
