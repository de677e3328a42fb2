"""Gives a model that answers what a knowledge provider knows about its questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from medvlm.compositions._around import Around
from medvlm.core.ask import Ask
from medvlm.core.context_config import ContextConfig
from medvlm.core.experts import Images, OpenExpert
from medvlm.core.sample import Question
from medvlm.data.prepare import LookedAt
from medvlm.knowledge._contract import add_context, describe_context


def add_to(context: ContextConfig, open_expert: OpenExpert, question: Question, looked_at: LookedAt | None) -> Question:
    return add_context(context, question, looked_at and Images(*looked_at, open_expert))


def give_context(models: Sequence[Any], context: ContextConfig | None, open_expert: OpenExpert) -> list[Any]:
    """The models, of which those that answer get the context with each question."""
    if context is None:
        return [*models]
    return [WithContext(model, context, open_expert) if {"answer", "weigh"} & model.can else model for model in models]


class WithContext(Around):
    """A model that answers with the context of each question."""

    def __init__(self, model: Any, context: ContextConfig, open_expert: OpenExpert):
        super().__init__(model)
        self._context, self._open_expert = context, open_expert

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**self._model.identity, "context": describe_context(self._context)}

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        answers: list[str] = self._model.answer(self._add(asks))
        return answers

    def draw(self, asks: Sequence[Ask], copies: int, temperature: float, seed: int) -> list[list[str]]:
        drawn: list[list[str]] = self._model.draw(self._add(asks), copies, temperature, seed)
        return drawn

    def tell(self, ask: Ask, hear: Callable[[str], None], temperature: float = 0.0, seed: int = 0) -> str:
        (asked,) = self._add([ask])
        return str(self._model.tell(asked, hear, temperature, seed))

    def weigh(self, asks: Sequence[Ask], texts: Sequence[Sequence[str]]) -> list[list[tuple[float, int]]]:
        weights: list[list[tuple[float, int]]] = self._model.weigh(self._add(asks), texts)
        return weights

    def _add(self, asks: Sequence[Ask]) -> list[Ask]:
        add = partial(add_to, self._context, self._open_expert)
        return [replace(ask, question=add(ask.question, _look_at(ask))) for ask in asks]


def _look_at(ask: Ask) -> LookedAt | None:
    return (ask.media_of or (ask.sample, ask.files)) if ask.shows == "media" else None
