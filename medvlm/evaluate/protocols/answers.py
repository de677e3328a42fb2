"""Asks every question of a split that has a short text answer, once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from medvlm.core.content import Content
from medvlm.core.measure import Measure
from medvlm.core.protocols import Answerer, ProtocolConfig, Record, Row, Split
from medvlm.core.sample import Question
from medvlm.core.scoring import list_rule_measures
from medvlm.core.tasks import is_scored, is_scored_task
from medvlm.evaluate.protocols import _questions, _rows, _sensitivity
from medvlm.evaluate.rows import Part

NEEDS = "answer"
BASELINES = (_rows.BLIND, _rows.SHUFFLED, _rows.MAJORITY, _rows.CHANCE)
NOTHING = "no question that can be scored"
PLACE_IN_OLD_COUNTS = 0
FORM = _rows.TextRecord
merge = _rows.merge


class Config(ProtocolConfig):
    kind: Literal["answers"] = "answers"


def can_ask(content: Content, model: Any) -> bool:
    return content.tasks is None or any(map(is_scored_task, content.tasks))


def ask(config: Config, model: Answerer, split: Split) -> Iterator[Record]:
    return _questions.ask_questions(model, split, model.answer, _is_asked)


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    rules = list_rule_measures(settings.get("scoring", ()))
    return [*_rows.rows_of(records, settings, rules), *_sensitivity.rows_of(records, settings)]


def list_parts(records: Sequence[Record], settings: Mapping[str, Any]) -> Iterator[tuple[Measure, str, list[Part]]]:
    return _rows.list_parts(records, settings, list_rule_measures(settings.get("scoring", ())))


def _is_asked(question: Question) -> bool:
    return is_scored(question.truth)
