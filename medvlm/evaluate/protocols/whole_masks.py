"""Masks of whole media on their stored pixels, read in overlapping windows as by `medvlm segment`.

A medium that is larger than the input of its encoder at `preprocess.spacing_mm` is cut to its centre where the other
protocols show it, and so is its truth. Here nothing is cut: the answer is what `medvlm segment` would write, and the
truth is the stored mask, so distances are in mm of the scan. It takes as many passes as there are windows. Masks that
know objects are left out, since their measures need probabilities.

Baseline: the mask of another patient's medium, laid with its centre over that of this one (`shuffled`). A constant mask
has no meaning for media of different sizes. Rows are those of masks, in a group of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medvlm.core.ask import Ask
from medvlm.core.content import Content
from medvlm.core.decoder_config import list_templates
from medvlm.core.measure import Measure
from medvlm.core.protocols import ProtocolConfig, Record, Row, Split
from medvlm.core.sample import Question, Truth
from medvlm.core.tasks import MAPS, find_task
from medvlm.evaluate.protocols import _questions, _rows
from medvlm.evaluate.protocols._whole import Around
from medvlm.evaluate.rows import Part, make_row
from medvlm.io.masks import decode_mask
from medvlm.models.sliding import Windows

NEEDS = "decode"
BASELINES = (_rows.SHUFFLED,)
NOTHING = "no question that a decoder of the model answers with a mask of a whole medium"
BY_NAME_ONLY = True
FORM = _rows.AskedRecord
GROUP = "whole_masks"
merge = _rows.merge


class Config(ProtocolConfig):
    kind: Literal["whole_masks"] = "whole_masks"
    overlap: float = Field(0.5, ge=0, lt=1)
    """Of neighbouring windows, as a share of their sides."""
    batch: int = Field(2, gt=0)
    """Windows that are read together."""


def can_ask(content: Content, model: Any) -> bool:
    return content.answered is None or bool(content.answered.keys() & list_templates(model.decoders).keys())


def ask(config: Config, model: Any, split: Split) -> Iterator[Record]:
    whole = Whole(model, Windows(config.overlap, batch=config.batch))
    return _questions.ask_questions(whole, split, whole.decode, whole.can_answer)


class Whole(Around):
    """The model under evaluation, as one that sees the stored pixels of media."""

    def can_answer(self, question: Question) -> bool:
        truth = question.truth
        if find_task(truth.task).ANSWERED_BY != MAPS or getattr(truth, "objects", False):
            return False
        return bool(self.model.can_answer(question)) and not self.model.fills(question)

    def place_truth(self, ask: Ask) -> Truth:
        """The truth with its stored masks."""
        truth, medium = ask.question.truth, ask.sample.media[0]
        masks = {member: decode_mask(ask.files[member], member) for member in truth.members}
        return find_task(truth.task).hold(truth, masks, medium.spacing_mm)

    def decode_one(self, ask: Ask) -> Any:
        found = self.model.mark_whole(ask, self.windows)
        if found is None:
            return None
        size, truth = ask.sample.media[0].size, ask.question.truth
        classes, planes = list(found), np.stack([lay_over(plane, size) for plane in found.values()])
        decode = find_task(truth.task).decode
        assert decode is not None, truth.task
        return decode(planes, truth, classes, False)


def lay_over(plane: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A plane of another size, its centre over that of one of this size: what reaches beyond it is cut off."""
    if plane.shape == tuple(size):
        return plane
    laid = np.zeros(size, bool)
    ours, theirs = [], []
    for own, other in zip(size, plane.shape, strict=True):
        shared = min(own, other)
        ours.append(slice((own - shared) // 2, (own - shared) // 2 + shared))
        theirs.append(slice((other - shared) // 2, (other - shared) // 2 + shared))
    laid[tuple(ours)] = plane[tuple(theirs)]
    return laid


def list_parts(records: Sequence[Record], settings: Mapping[str, Any]) -> Iterator[tuple[Measure, str, list[Part]]]:
    for measure, metric, parts in _rows.list_parts(records, settings):
        yield replace(measure, group=GROUP), metric, parts


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    return [make_row(measure, metric, parts, settings) for measure, metric, parts in list_parts(records, settings)]
