"""Synthetic chest radiographs and CT volumes from a seed, with known findings, reports and questions.

A study is a function of (seed, film or volume, its index): asking for more studies does not change the earlier ones.
Patients have one to three radiographs and one to three volumes, each with its own finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from medvlm.archive.phantom.film import FILM_MM, draw_film
from medvlm.archive.phantom.finding import (
    KINDS,
    MAX_CLIPS,
    SIDES,
    SIZES_MM,
    STRUCTURES,
    ZONES,
    Finding,
    concept_of,
    draw_finding,
    patient_of,
)
from medvlm.archive.phantom.mark import draw_mark
from medvlm.archive.phantom.text import ask, ask_length, ask_pair, ask_points, write_report
from medvlm.archive.phantom.volume import VOLUME_MM, draw_volume
from medvlm.core import config
from medvlm.core.content import Content, Offer, name_asked
from medvlm.core.contracts import Deferred, RawSample
from medvlm.core.sample import Decoded, Medium, Question, Sample, make_truth

MASKS = "structures"
"""Template of the questions for masks."""
VALUES = {"kind": KINDS, "side": SIDES, "zone": ZONES, "size": tuple(SIZES_MM)}
"""Of what is labelled."""


class Config(config.Config):
    kind: Literal["phantom"] = "phantom"
    seed: int = Field(0, ge=0)
    films: int = Field(0, ge=0)
    """Number of studies with one radiograph."""
    volumes: int = Field(0, ge=0)
    """Number of studies with one CT volume."""
    film_px: int = Field(128, ge=96)
    """Height and width of a radiograph; below 96 a clip is shorter than two pixels."""
    bits: Literal[8, 16] = 8
    """Bits per pixel of a radiograph."""
    volume_size: tuple[int, int, int] = (24, 64, 64)
    """Depth, height, width of a volume in voxels: 8 x 5 x 5 mm by default."""
    pairs: bool = Field(False, exclude_if=lambda pairs: not pairs)
    """Whether each study also has a pair of descriptions, of which the better one says what it shows (task
    `preference`). Nothing else changes."""

    marks: bool = Field(False, exclude_if=lambda marks: not marks)
    """Whether each radiograph has a striped mark, and only questions about it: which way the stripes run, which a
    64 x 64 encoder cannot see (film_px: 256 or more), and where the mark is."""
    millimetres: bool = Field(False, exclude_if=lambda asks: not asks)
    """Whether it is also asked how long the finding is (task `measure`). Nothing else changes."""

    points: bool = Field(False, exclude_if=lambda asks: not asks)
    """Whether it is also asked to point at the clips of a radiograph (task `points`). Nothing else changes."""

    masks: bool = Field(False, exclude_if=lambda masks: not masks)
    """Whether each study has a mask of its finding and clips, and a question for it (task `mask`, template
    `structures`). Nothing else changes."""

    labels: bool = Field(False, exclude_if=lambda labels: not labels)
    """Whether kind, side, zone and size of each finding are questions for a decoder too (task `labels`, templates
    `kind_label` and so on). Nothing else changes."""

    @model_validator(mode="after")
    def _makes_something(self) -> Config:
        if not self.films and not self.volumes:
            raise ValueError(
                "films and volumes are both 0: expected a number of studies in at least one, e.g. films: 100"
            )
        if min(self.volume_size) < 24:
            raise ValueError(
                f"volume_size is {self.volume_size}: expected at least 24 voxels an axis, or findings fall between them"
            )
        return self


def read(config: Config, root: Path | None) -> Iterator[Deferred]:
    """Radiographs, then volumes; they are drawn in the decoder processes. `root` is not used."""
    for index in range(config.films):
        yield Deferred(_film_key(index), partial(film_study, config, index))
    for index in range(config.volumes):
        yield Deferred(_volume_key(index), partial(volume_study, config, index))


def list_content(config: Config) -> Content:
    media = {"film": config.films, "volume": config.volumes}
    whole = not config.marks or config.volumes
    return Content(
        tasks=name_asked(
            choice=True,
            count=whole,
            report=whole,
            boxes=config.films,
            preference=config.pairs,
            measure=config.millimetres and whole,
            points=config.points and config.films and not config.marks,
            mask=config.masks,
            labels=config.labels,
        ),
        media=frozenset(kind for kind, number in media.items() if number),
        has_reports=True,
        answered={
            **({MASKS: Offer("mask", STRUCTURES)} if config.masks else {}),
            **({f"{name}_label": Offer("labels", values) for name, values in VALUES.items()} if config.labels else {}),
        },
        splits=frozenset(),
    )


def count(config: Config, root: Path | None) -> int:
    return config.films + config.volumes


def film_study(config: Config, index: int) -> RawSample:
    rng = np.random.default_rng([config.seed, 0, index])
    finding, num_clips = draw_finding(rng), int(rng.integers(MAX_CLIPS + 1))
    report = write_report(rng, finding, num_clips)
    film = draw_film(rng, finding, num_clips, config.film_px, config.bits)
    questions = tuple(ask(rng, "film", finding, report, num_clips, film.finding_box, film.clip_boxes))
    questions += _ask_pair(config, (2, index), "film", finding) + _ask_length(config, (7, index), "film", finding)
    if config.points:
        questions += (ask_points(np.random.default_rng([config.seed, 6, index]), "film", film.clip_boxes),)
    pixels = film.pixels
    if config.marks:
        pixels, questions = draw_mark(np.random.default_rng([config.seed, 4, index]), pixels)
    questions += _ask_mask(config, "film") + tuple(_ask_labels(config, "film", finding))
    spacing_mm = FILM_MM / config.film_px
    medium = Medium("film", "0.png", pixels.shape, (spacing_mm, spacing_mm), "display", "DX")
    sample = Sample(_film_key(index), "", "", (medium,), report, concept_of(finding), questions, patient_of(index))
    return RawSample(sample, {"0.png": pixels, **_mask(config, film.labels)})


def volume_study(config: Config, index: int) -> RawSample:
    rng = np.random.default_rng([config.seed, 1, index])
    finding, num_clips = draw_finding(rng), int(rng.integers(MAX_CLIPS + 1))
    report = write_report(rng, finding, num_clips)
    hu, labels = draw_volume(rng, finding, num_clips, config.volume_size)
    questions = tuple(ask(rng, "scan", finding, report, num_clips))
    questions += _ask_pair(config, (3, index), "scan", finding) + _ask_length(config, (8, index), "scan", finding)
    questions += _ask_mask(config, "scan") + tuple(_ask_labels(config, "scan", finding))
    spacing_mm = tuple(mm / n for mm, n in zip(VOLUME_MM, config.volume_size, strict=True))
    medium = Medium("volume", "0.npy", hu.shape, spacing_mm, "HU", "CT")
    sample = Sample(_volume_key(index), "", "", (medium,), report, concept_of(finding), questions, patient_of(index))
    return RawSample(sample, {"0.npy": hu, **_mask(config, labels)})


def _ask_pair(config: Config, key: tuple[int, int], image: str, finding: Finding | None) -> tuple[Question, ...]:
    return (ask_pair(np.random.default_rng([config.seed, *key]), image, finding),) if config.pairs else ()


def _ask_length(config: Config, key: tuple[int, int], image: str, finding: Finding | None) -> tuple[Question, ...]:
    if not config.millimetres or finding is None:
        return ()
    return (ask_length(np.random.default_rng([config.seed, *key]), image, finding),)


def _ask_mask(config: Config, image: str) -> tuple[Question, ...]:
    if not config.masks:
        return ()
    truth = make_truth("mask", classes=STRUCTURES, member="0.mask")
    return (Question(f"Segment the {image}.", truth, MASKS),)


def _ask_labels(config: Config, image: str, finding: Finding | None) -> Iterator[Question]:
    """None about a study without a finding."""
    for name, values in VALUES.items() if config.labels and finding is not None else ():
        labels = tuple(value == getattr(finding, name) for value in values)
        truth = make_truth("labels", classes=values, labels=labels)
        yield Question(f"Classify the finding of the {image} by its {name}.", truth, f"{name}_label")


def _mask(config: Config, labels: np.ndarray) -> dict[str, Decoded]:
    return {"0.mask": Decoded(labels)} if config.masks else {}


def _film_key(index: int) -> str:
    return f"film-{index:06d}"


def _volume_key(index: int) -> str:
    return f"volume-{index:06d}"
