"""Asks every question of a split that is answered by a long text, such as a report, once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from medvlm.core.content import Content
from medvlm.core.protocols import Answerer, ProtocolConfig, Record, Split
from medvlm.core.sample import Question
from medvlm.core.tasks import is_scored, is_scored_task
from medvlm.evaluate.protocols import _questions, _rows

NEEDS = "answer"
BASELINES = (_rows.BLIND, _rows.SHUFFLED, _rows.MAJORITY, _rows.NEAREST)
NOTHING = "no question that asks for a report"
FORM = _rows.TextRecord
rows_of, list_parts, merge = _rows.rows_of, _rows.list_parts, _rows.merge


class Config(ProtocolConfig):
    kind: Literal["long_answers"] = "long_answers"


def can_ask(content: Content, model: object) -> bool:
    return content.tasks is None or any(is_scored_task(task, is_long=True) for task in content.tasks)


def ask(config: Config, model: Answerer, split: Split) -> Iterator[Record]:
    def show(what: str, done: int, total: int) -> None:
        split.progress(f"{what} for reports", done, total)

    return _questions.ask_questions(model, replace(split, progress=show), model.answer, _is_asked)


def _is_asked(question: Question) -> bool:
    return is_scored(question.truth, is_long=True)
