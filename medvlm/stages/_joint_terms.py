"""Further losses of a contrastive stage: what they read of samples, and their sums, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from medvlm.core.config import component
from medvlm.core.contracts import Outputs
from medvlm.core.geometry import Canvas
from medvlm.core.joint import Item
from medvlm.core.problems import Problem
from medvlm.core.sample import Box, Question, Sample
from medvlm.data.control_words import holds_words
from medvlm.data.order import draw
from medvlm.objectives.joint._base import Ranks, stack_read
from medvlm.tasks._boxes import clip_boxes
from medvlm.train.terms import Loss, Name, Term

Read = dict[str, dict[str, torch.Tensor]]
"""Name of a loss -> what it has read of one sample, or of several."""


def check_terms(terms: Mapping[str, Any], model: Any) -> Iterator[Problem]:
    if terms and len(model.encoders) != 1:
        yield Problem(("terms",), f"read the patches of one encoder, and the model has {len(model.encoders)}")
    for name, term in terms.items():
        if "." in name:
            yield Problem(("terms", name), "a name of a loss has no dots")
        refuse = getattr(component("objectives.joint", term.kind), "refuse", None)
        if refuse is not None and (why := refuse(term, model)):
            yield Problem(("terms", name), why)


def read_sample(
    objective: Any,
    sample: Sample,
    files: Mapping[str, Any],
    text: str,
    ids: list[int],
    tokenizer: Any,
    prepare: Any,
    canvas: Canvas | None,
    *key: int | str,
) -> Read:
    """text, ids: the first text that was drawn for the sample. canvas: of its first medium. key: of what is random."""

    def label(question: Question, decoder: Any) -> np.ndarray:
        if prepare.is_estimate:  # of a plan, which has no labels
            return np.zeros(() if decoder.exclusive else len(decoder.classes), np.int64)
        found: np.ndarray = prepare.labels(sample, question, files, decoder)
        return found

    where = f"{sample.source}/{sample.key}"
    locate = partial(locate_tokens, tokenizer, text, len(ids))
    return {
        name: term.read(
            Item(sample, where, text, ids, locate, label, partial(find_boxes, sample, canvas), draw(*key, name))
        )
        for name, term in objective.items()
    }


def find_boxes(sample: Sample, canvas: Canvas | None, label: str) -> list[Box]:
    """Those of all questions of which half or more can be seen, as shares of the canvas; each of them once."""
    if canvas is None or len(canvas.size) != 2:
        return []
    (height, width), found = canvas.size, dict[Box, None]()
    for question in sample.questions:
        if getattr(question.truth, "label", "") == label:
            found |= dict.fromkeys(clip_boxes(getattr(question.truth, "boxes", ()), canvas))
    return [(x1 / width, y1 / height, x2 / width, y2 / height) for x1, y1, x2, y2 in found]


def locate_tokens(tokenizer: Any, text: str, count: int) -> list[tuple[int, int]]:
    """The characters of each token; none for a text with control words, which is read in parts, and in a plan, which
    does not know the words."""
    if not hasattr(tokenizer, "backend_tokenizer") or holds_words(text, tokenizer):
        return []
    offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping
    return [*offsets[: count - 1], (0, 0)]


def stack(items: Sequence[Read]) -> Read:
    return {name: stack_read([item[name] for item in items]) for name in items[0]}


def split(read: Read, count: int) -> list[Read]:
    """Into parts of equal numbers of samples."""
    parts = {name: {key: tensor.chunk(count) for key, tensor in own.items()} for name, own in read.items()}
    return [{name: {k: chunks[i] for k, chunks in own.items()} for name, own in parts.items()} for i in range(count)]


def weigh(objective: Any, read: Read, count: int) -> dict[str, float]:
    return {
        join_names(name, part): weight
        for name, term in objective.items()
        for part, weight in term.weigh(read.get(name, {}), count).items()
    }


def add_up(
    objective: Any, terms: Mapping[str, Any], ranks: Ranks, outputs: Outputs, weights: Mapping[str, float]
) -> dict[Name, Loss | Term]:
    """weights: of the losses, see weigh()."""
    found: dict[Name, Loss | Term] = {}
    for name, term in objective.items():
        own = {key.removeprefix(f"{name}."): t for key, t in outputs.items() if key.startswith(f"{name}.")}
        for part, total in term.add_up(ranks, own, outputs["concepts_NK"][:, 0]).items():
            full = join_names(name, part)
            found[full] = Loss(terms[name].weight * total, weights[full])
    return found


def join_names(name: str, part: str) -> str:
    return f"{name}.{part}" if part else name
