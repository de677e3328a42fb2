"""Asks every question of a split that a decoder answers with scores or a mask, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from medvlm.core.content import Content
from medvlm.core.decoder_config import list_templates
from medvlm.core.protocols import Decoder, ProtocolConfig, Record, Split
from medvlm.evaluate.protocols import _questions, _rows

NEEDS = "decode"
BASELINES = (_rows.SHUFFLED, _rows.MAJORITY, _rows.FILLED, _rows.MISPLACED)
NOTHING = "no question that a decoder of the model answers"
FORM = _rows.AskedRecord
rows_of, list_parts, merge = _rows.rows_of, _rows.list_parts, _rows.merge


class Config(ProtocolConfig):
    kind: Literal["predictions"] = "predictions"


def can_ask(content: Content, model: Any) -> bool:
    return content.answered is None or bool(content.answered.keys() & list_templates(model.decoders).keys())


def ask(config: Config, model: Decoder, split: Split) -> Iterator[Record]:
    return _questions.ask_questions(model, split, model.decode, model.can_answer)
