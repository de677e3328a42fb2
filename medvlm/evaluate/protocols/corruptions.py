"""Asks every question again with corrupted images: noise, blur, fewer pixels, JPEG, brightness, contrast, gamma.

Rows of the group `corrupted` for each metric that is a mean of scores (`accuracy`, ...), compared with the answers to
the images as they are (`as_it_is`): over all corruptions, of each one (`accuracy:jpeg`) and at each level
(`accuracy:jpeg 5`); `rr_accuracy`, the relative robustness; `unchanged`, the share of answers that stay the same;
`consistent`, the share of questions whose answers all do.

The random numbers of noise depend on the seed, the sample and the corruption alone. Only images that are stored as they
are shown can be corrupted: volumes and images in physical units, such as HU, have no black and white. Their questions
are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, field_validator

from medvlm.core.ask import Ask, Files
from medvlm.core.content import Content
from medvlm.core.errors import did_you_mean, list_some
from medvlm.core.protocols import Answerer, ProtocolConfig, Record, Row, Split
from medvlm.core.sample import Medium, Sample
from medvlm.core.tasks import is_scored_task
from medvlm.data.order import draw
from medvlm.evaluate.corrupt import CORRUPTIONS, LEVELS, corrupt
from medvlm.evaluate.protocols import _robustness, _variants
from medvlm.io.images import decode, encode_png, fits_png, suffix_of

NEEDS = "answer"
BASELINES = (_variants.AS_IT_IS,)
NOTHING = "no question that can be scored about images that can be corrupted"
BY_NAME_ONLY = True
FORM = _variants.FORM


class Config(ProtocolConfig):
    kind: Literal["corruptions"] = "corruptions"
    corruptions: tuple[str, ...] = Field(tuple(CORRUPTIONS), min_length=1)
    """Names in evaluate/corrupt.py; by default all."""
    levels: tuple[int, ...] = Field((1, 3, 5), min_length=1)
    """From 1, hardly visible, to 5. Each adds an answer to every question and corruption."""

    @field_validator("corruptions")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in CORRUPTIONS:
                close = did_you_mean(name, list(CORRUPTIONS))
                raise ValueError(f"unknown corruption {name!r}{close} (accepts {list_some(list(CORRUPTIONS))})")
        return tuple(dict.fromkeys(names))

    @field_validator("levels")
    @classmethod
    def _are_levels(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        for level in levels:
            if not 1 <= level <= LEVELS:
                raise ValueError(f"there is no level {level}; expected 1 to {LEVELS}")
        return tuple(sorted(set(levels)))


def can_ask(content: Content, model: Any) -> bool:
    has_tasks = content.tasks is None or any(map(is_scored_task, content.tasks))
    return has_tasks and (content.media is None or bool(content.media))


def ask(config: Config, model: Answerer, split: Split) -> Iterator[Record]:
    names = [f"{name} {level}" for name in config.corruptions for level in config.levels]

    def list_variants(asked: Ask, left_out: Counter[str]) -> Sequence[str]:
        if reason := say_why_not(asked.sample, asked.files):
            left_out[reason] += 1
            return ()
        return names

    return _variants.ask_variants(model, split, list_variants, Corruptor(split.seed))


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    return _variants.rows_of(_robustness.CORRUPTED, records, settings)


def say_why_not(sample: Sample, files: Files) -> str:
    """Why its media cannot be corrupted; "" if they can."""
    if not sample.media:
        return "no image to corrupt"
    return next(filter(None, (_say_why_not(medium, files) for medium in sample.media)), "")


def _say_why_not(medium: Medium, files: Files) -> str:
    if len(medium.size) != 2:
        return f"a {medium.kind} is no single image, and is not corrupted"
    if medium.unit != "display":
        return f"a {medium.kind} in the unit {medium.unit} has no black and white, and is not corrupted"
    data = files[medium.member]
    is_picture = suffix_of(data) != "npy" or fits_png(decode(data, medium.member))
    return "" if is_picture else f"a {medium.kind} of other numbers than 8 or 16 bits is not corrupted"


class Corruptor:
    """Shows the corrupted media of a sample in place of its own. They are kept until another variant is made."""

    def __init__(self, seed: int):
        self.seed, self.name = seed, ""
        self.made: dict[str, tuple[Sample, Files]] = {}

    def __call__(self, asked: Ask, name: str) -> Ask:
        if name != self.name:
            self.name, self.made = name, {}
        if asked.sample.key not in self.made:
            self.made[asked.sample.key] = self._corrupt(asked.sample, asked.files)
        return replace(asked, media_of=self.made[asked.sample.key])

    def _corrupt(self, sample: Sample, files: Files) -> tuple[Sample, Files]:
        """The sample has another key, because models encode the images of a key once."""
        kind, _, level = self.name.rpartition(" ")
        changed = dict(files)
        for number, medium in enumerate(sample.media):
            rng = draw(self.seed, sample.key, number, self.name)
            pixels = decode(files[medium.member], medium.member)
            changed[medium.member] = encode_png(corrupt(pixels, kind, int(level), rng))
        return replace(sample, key=f"{sample.key}, {self.name}"), changed
