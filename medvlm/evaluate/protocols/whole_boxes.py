"""Boxes of objects on all stored pixels of a medium, found in overlapping windows and in mirror images of them, and
joined by weighted clustering (Retina U-Net, arXiv 1811.08661, section 2.3).

A medium that is larger than the input of its encoder at `preprocess.spacing_mm` is cut to its centre where other
protocols show it. Here nothing is cut. Without a spacing there is one window, and only mirror images are joined.

Baseline: the boxes of another patient's medium (`shuffled`). Rows are those of boxes, in a group of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from medvlm.core.ask import Ask
from medvlm.core.content import Content
from medvlm.core.decoder_config import list_templates
from medvlm.core.measure import Measure
from medvlm.core.protocols import ProtocolConfig, Record, Row, Split
from medvlm.core.sample import Question, Truth
from medvlm.core.tasks import find_task
from medvlm.evaluate.protocols import _questions, _rows
from medvlm.evaluate.protocols._whole import Around
from medvlm.evaluate.rows import Part, make_row
from medvlm.models.sliding import Windows

NEEDS = "decode"
BASELINES = (_rows.SHUFFLED,)
NOTHING = "no question that a decoder of the model answers with boxes"
BY_NAME_ONLY = True
FORM = _rows.AskedRecord
GROUP = "whole_boxes"
DETECTIONS = "detections"
AXES = ("depth", "height", "width")
merge = _rows.merge


class Config(ProtocolConfig):
    kind: Literal["whole_boxes"] = "whole_boxes"
    overlap: float = Field(0.5, ge=0, lt=1)
    """Of neighbouring windows, as a share of their sides."""
    mirror: tuple[Literal["depth", "height", "width"], ...] = ()
    """Axes along which each window is mirrored too, in all combinations: two of them are four views. `depth` is of
    volumes alone."""
    batch: int = Field(2, gt=0)
    """Windows that are read together."""


def can_ask(content: Content, model: Any) -> bool:
    return content.answered is None or bool(content.answered.keys() & list_templates(model.decoders).keys())


def ask(config: Config, model: Any, split: Split) -> Iterator[Record]:
    flips = tuple(sorted({AXES.index(axis) - len(AXES) for axis in config.mirror}))
    whole = Whole(model, Windows(config.overlap, flips, config.batch))
    return _questions.ask_questions(whole, split, whole.decode, whole.can_answer)


class Whole(Around):
    """flips of its windows are counted from the last axis."""

    def can_answer(self, question: Question) -> bool:
        is_it = find_task(question.truth.task).ANSWERED_BY == DETECTIONS
        return is_it and bool(self.model.can_answer(question))

    def place_truth(self, ask: Ask) -> Truth:
        """As it is stored."""
        return ask.question.truth

    def decode_one(self, ask: Ask) -> Any:
        axes = len(ask.sample.media[0].size)
        flips = tuple(axes + axis for axis in self.windows.flips if axes + axis >= 0)
        found = self.model.find_whole(ask, replace(self.windows, flips=flips))
        if found is None:
            return None
        boxes, classes = found
        decode = find_task(ask.question.truth.task).decode
        assert decode is not None, ask.question.truth.task
        return decode(boxes, ask.question.truth, classes, False)


def list_parts(records: Sequence[Record], settings: Mapping[str, Any]) -> Iterator[tuple[Measure, str, list[Part]]]:
    for measure, metric, parts in _rows.list_parts(records, settings):
        yield replace(measure, group=GROUP), metric, parts


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    return [make_row(measure, metric, parts, settings) for measure, metric, parts in list_parts(records, settings)]
