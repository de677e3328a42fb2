"""Answers by the texts that are most similar to an image, without training on answers: zero-shot classification.

Each answer is written in several prompts, whose vectors are averaged.
Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 3.1.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from medvlm.core.protocols import ProtocolConfig, Record, Row, Split
from medvlm.core.terminology import Terminology
from medvlm.evaluate.protocols import _vectors

NEEDS = "embed"
BASELINES = (_vectors.BASELINE,)
NOTHING = "no question with a short answer and an image"
BY_NAME_ONLY = True
FORM = _vectors.FORM
can_ask = _vectors.can_ask
merge = _vectors.merge
list_parts = partial(_vectors.list_parts, "zero_shot")
GAP = "{answer}"


class Config(ProtocolConfig):
    kind: Literal["zero_shot"] = "zero_shot"
    prompts: tuple[str, ...] = Field((GAP,), min_length=1)
    """Texts with {answer}, written as the reports that the model was trained on."""
    dictionary: Terminology | None = None
    """Descriptions that stand in place of an answer: its vector is the mean over all of them, in all prompts (FLAIR,
    arXiv 2308.07898). Other answers are written as they are."""
    templates: tuple[str, ...] = ()
    """The templates to ask; by default all whose training samples have few different answers."""

    @field_validator("prompts")
    @classmethod
    def _have_a_gap(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        for prompt in prompts:
            if GAP not in prompt:
                raise ValueError(f"{prompt!r} has no {GAP}; write e.g. 'A radiograph that shows {GAP}.'")
        return prompts


def ask(config: Config, model: Any, split: Split) -> Iterator[Record]:
    """Which answers there are is known from the training samples; nothing else of them is used."""
    known = {
        template: answers
        for template, answers in _vectors.list_known(split).items()
        if template in config.templates or not config.templates
    }
    test = _vectors.embed(split, split.places, "images", lambda sample, files: model.embed_media([(sample, files)])[0])
    if not test:
        return
    image_ME = np.stack([vector for _, vector in test])

    def answer(template: str, rows_M: Sequence[int]) -> list[str]:
        names = sorted(set(known[template]))
        texts_AE = np.stack([_embed_answer(config, model, name) for name in names])
        return [names[n] for n in (image_ME[rows_M] @ texts_AE.T).argmax(axis=1)]

    yield from _vectors.record_answers(split, [sample for sample, _ in test], known, answer)


def _embed_answer(config: Config, model: Any, name: str) -> np.ndarray:
    """The mean of the vectors of its prompts, scaled to length 1."""
    phrases = config.dictionary.entries.get(name, (name,)) if config.dictionary else (name,)
    vectors_PE = model.embed_texts([prompt.replace(GAP, phrase) for phrase in phrases for prompt in config.prompts])
    found: np.ndarray = _vectors.scale(np.asarray(vectors_PE, np.float64).mean(axis=0, keepdims=True))[0]
    return found


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    return _vectors.rows_of("zero_shot", records, settings)
