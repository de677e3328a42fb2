"""Asks every question of a split that a decoder answers with scores or a mask, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from medvlm.core.protocols import Decoder, ProtocolConfig, Record, Split
from medvlm.evaluate.protocols import _questions

NEEDS = "decode"
BASELINES = (_questions.SHUFFLED, _questions.MAJORITY)
NOTHING = "no question that a decoder of the model answers"
rows_of = _questions.rows_of


class Config(ProtocolConfig):
    kind: Literal["predictions"] = "predictions"


def ask(config: Config, model: Decoder, split: Split) -> Iterator[Record]:
    return _questions.ask_questions(model, split, model.decode, model.can_answer)
