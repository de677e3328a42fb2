"""What a supervised stage trains of a question or a dialogue: which tokens, with which weights, in which words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Annotated

from pydantic import Field

from medvlm.core.config import Config
from medvlm.core.errors import DataError
from medvlm.core.sample import Question
from medvlm.core.tasks import TextTask
from medvlm.core.turns import has_places
from medvlm.data.dialogue import Span, TokenSequence
from medvlm.data.order import draw_below

GAP = "{question}"


class LossWeights(Config):
    """Factors on the loss of each answer. They multiply each other and the weight that the data give an answer; the
    sum of losses is divided by the sum of weights, over all ranks."""

    sources: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    """Source of `mix` -> factor. Unlike the weights of `mix`, it does not change how often samples are used."""
    tasks: dict[TextTask, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    """Task -> factor."""
    turns: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = ()
    """Of the first, second ... turn of a dialogue; the last one is that of all later turns. 0 keeps a turn out of the
    loss."""

    def weigh(self, turn: Question) -> float:
        """The weight of the answer to a turn, apart from its source."""
        number = min(max(turn.turn, 1), len(self.turns))
        return turn.weight * self.tasks.get(turn.truth.task, 1.0) * (self.turns[number - 1] if number else 1.0)


def reword(question: Question, wordings: Mapping[str, Sequence[str]], *key: int | str) -> Question:
    """The question in one of the wordings of its task, drawn by the key. Turns of dialogues keep their words."""
    known = wordings.get(question.truth.task)
    if not known or has_places(question):
        return question
    chosen = known[draw_below(len(known), *key, "wording", question.template)]
    return replace(question, text=chosen.replace(GAP, question.text))


def train_last(question: Question) -> Question:
    """A dialogue of which only the last answer is trained."""
    return replace(question, before=tuple(replace(turn, weight=0.0) for turn in question.before))


def train_everything(document: TokenSequence, media_ids: frozenset[int]) -> TokenSequence:
    """A document of one question or dialogue of which all tokens are trained, except the first one, which nothing
    predicts, and those of media. Answers keep their weights."""
    ((branch, skipped),), first = document.branches, len(document.prefix)
    ids = document.prefix + branch
    weights = [0.0 if token in media_ids else 1.0 for token in ids]
    for start, end, weight in document.answers[0] if document.answers else [(skipped, len(branch), 1.0)]:
        weights[first + start : first + end] = [weight] * (end - start)
    spans, at = list[Span](), 0
    for weight, run in groupby(weights[1:]):
        length = len(list(run))
        spans += [(at, at + length, weight)] if weight else []
        at += length
    if not spans:
        raise DataError("has nothing to train but media")
    return replace(document, prefix=ids[:1], branches=[(ids[1:], 0)], answers=[spans])


def weigh_document(document: TokenSequence, factor: float) -> TokenSequence:
    """The document with all its weights multiplied."""
    answers = document.answers or [[(skipped, len(ids), 1.0)] for ids, skipped in document.branches]
    scaled = [[(start, end, factor * weight) for start, end, weight in spans] for spans in answers]
    return replace(document, answers=scaled)
