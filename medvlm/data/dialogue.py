"""Turns questions and answers into token ids with the chat template, in training and evaluation alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from medvlm.core.errors import DataError, RecipeError, shorten
from medvlm.core.text import count_common_prefix
from medvlm.core.turns import Message
from medvlm.data.control_words import shield, tokenize


@dataclass(frozen=True)
class Turn:
    """What is asked: prompt ids, and the ids of the answer with the template's end token ([] = to be generated).
    earlier: where the answers of earlier turns stand in the prompt, from start to end."""

    prompt: list[int]
    answer: list[int]
    earlier: tuple[tuple[int, int], ...] = ()


class Conversation:
    """What composed and ready models share: turns as token ids, by the chat template.

    tokenizer: of transformers."""

    tokenizer: Any
    media_words: frozenset[str]

    def turn(self, text: str, pictures: Sequence[Any], answer: str | None) -> Turn:
        """One question by itself. pictures: what stands for each; they come before the text. answer: None if it is to
        be generated."""
        asked = Message("user", (*[None] * len(pictures), text))
        return self.converse((asked,) if answer is None else (asked, Message("assistant", (answer,))), pictures)

    def converse(self, messages: Sequence[Message], pictures: Sequence[Any]) -> Turn:
        """messages: up to a question, or up to its answer. pictures: what stands for each picture, in order.

        Raises DataError if the template changes what was said as the dialogue goes on, RecipeError if it leaves out the
        system prompt."""
        shielded = tuple(
            Message(m.role, tuple(part and shield(part, self.tokenizer, self.media_words) for part in m.parts))
            for m in messages
        )
        return self._converse(shielded, tuple(pictures))

    def _converse(self, messages: tuple[Message, ...], pictures: tuple[Any, ...]) -> Turn:
        answered = messages[-1].role == "assistant"
        asked = messages[:-1] if answered else messages
        text = self.write(asked, ask=True)
        if asked[0].role == "system" and asked[0].text.strip() not in text:
            raise RecipeError(
                "the chat template of the model leaves out the system prompt; give the recipe a `template` that writes"
                " it, or remove it"
            )
        prompt = self.read(text, pictures)
        spans: list[tuple[int, int]] = []
        for begin, end in self._find_answers(asked, text):
            begun, ended = (self.read(text[:at], pictures) for at in (begin, end))
            _require_start(prompt, begun)
            _require_start(prompt, ended)
            spans.append((len(begun), len(ended)))
        earlier = tuple(spans)
        if not answered:
            return Turn(prompt, [], earlier)
        whole = self.read(self.write(messages, ask=False), pictures)
        _require_start(whole, prompt)
        return Turn(prompt, whole[len(prompt) :], earlier)

    def _find_answers(self, asked: tuple[Message, ...], text: str) -> Iterator[tuple[int, int]]:
        """Where the earlier answers stand in the text of a prompt, each with what the template ends it with."""
        for number, message in enumerate(asked):
            if message.role != "assistant":
                continue
            begun, said = self.write(asked[:number], ask=True), message.text.strip()
            alone = self.write(asked[: number + 1], ask=False)
            begin, at = len(begun), text.find(said, len(begun))
            if not text.startswith(begun) or at < 0 or said not in alone:
                raise DataError(CHANGES)
            end, closing = at + len(said), alone[alone.rindex(said) + len(said) :]
            yield begin, end + count_common_prefix([[*map(ord, closing)], [*map(ord, text[end:])]])

    def write(self, messages: tuple[Message, ...], ask: bool) -> str:
        """The text of a conversation, with a placeholder for each picture. ask: whether to add the template's opening
        of an answer."""
        raise NotImplementedError

    def read(self, text: str, pictures: tuple[Any, ...]) -> list[int]:
        """The ids of a text, or of the beginning of one, in which each placeholder becomes what stands for its
        picture."""
        raise NotImplementedError


CHANGES = (
    "the chat template changes the prompt when an answer follows, so labels would be misplaced; use another chat"
    " template"
)


def _require_start(whole: list[int], start: list[int]) -> None:
    if whole[: len(start)] != start:
        raise DataError(CHANGES)


@dataclass(frozen=True)
class Dialogue(Conversation):
    """tokenizer: of transformers, with a chat template. image_token: occurs once per image in the text, and is repeated
    for each image token before tokenizing, as in LlavaProcessor. What stands for a picture is its number of tokens."""

    tokenizer: Any
    image_token: str

    def __post_init__(self) -> None:
        # The same questions recur, and rendering a template holds the GIL for a tenth of a millisecond.
        object.__setattr__(self, "_converse", lru_cache(maxsize=8192)(self._converse))

    @property
    def image_id(self) -> int:
        known: int = self.tokenizer.convert_tokens_to_ids(self.image_token)
        return known

    @property
    def media_words(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({self.image_token})

    def write(self, messages: tuple[Message, ...], ask: bool) -> str:
        spoken = [
            {"role": m.role, "content": "".join(self.image_token if part is None else part for part in m.parts)}
            for m in messages
        ]
        text: str = fill_template(self.tokenizer, spoken, tokenize=False, add_generation_prompt=ask)
        expected, kept = sum(m.parts.count(None) for m in messages), text.count(self.image_token)
        if kept != expected:
            raise DataError(f"the chat template kept {kept} of {expected} image placeholders")
        return text

    def read(self, text: str, pictures: tuple[int, ...]) -> list[int]:
        before, *after = text.split(self.image_token)
        own = pictures[: len(after)]
        expanded = before + "".join(self.image_token * n + part for n, part in zip(own, after, strict=True))
        found = tokenize(expanded, self.tokenizer, add_special_tokens=False)
        if (number := found.count(self.image_id)) != sum(own):
            raise DataError(
                f"the tokenizer made {number} image tokens, expected {sum(own)}; {self.image_token} must be a single"
                " token of its vocabulary"
            )
        return found


def fill_template(speaker: Any, messages: list[Any], **options: Any) -> Any:
    """What the chat template makes of a conversation. speaker: a tokenizer or a processor. Raises RecipeError for a
    template that fails."""
    try:
        return speaker.apply_chat_template(messages, **options)
    except Exception as reason:  # a template may fail in any way
        raise RecipeError(
            f"the chat template of the model failed ({type(reason).__name__}: {shorten(str(reason))}); copy its files"
            " again, or give the recipe a `template`"
        ) from None


Span = tuple[int, int, float]
"""Start, end, weight."""


@dataclass(frozen=True)
class Stroke:
    """A token of an answer that draws a mask of the first medium. branch, at: its place, the index of a branch and of a
    token in it. label: int64 [1, *size], None if it is to be predicted."""

    decoder: str
    branch: int
    at: int
    label: Any = None


@dataclass(frozen=True)
class TokenSequence:
    """One document for the language model: a shared prefix, and the continuations (branches) that follow it.

    branches: (ids, number of leading ids without a loss). answers: for each branch, the spans of its ids that are
    trained instead, each with its weight in the loss; [] if those after the leading ids are one answer of weight 1.
    media: (encoder, pixels) in the order of the placeholders. source: the recipe's name of the data set, for statistics
    by source. scale: of the sides of its images, below 1 if they were scaled down to fit. row: which of the rank's rows
    of the step it is in, if rows were planned. strokes: the tokens that draw, in their order."""

    key: str
    prefix: list[int]
    branches: list[tuple[list[int], int]]
    media: list[tuple[str, Any]]
    source: str = ""
    scale: float = 1.0
    row: int | None = None
    answers: list[list[Span]] = field(default_factory=list)
    strokes: list[Stroke] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(ids) for ids, _ in self.branches)


def join_turns(
    key: str, turns: Sequence[Turn], media: list[tuple[str, Any]], weights: Sequence[Sequence[float]] = ()
) -> TokenSequence:
    """Turns about the same media as one sequence: the common start of their prompts is its prefix. A dialogue is a
    sequence by itself, whose prefix is its first question.

    weights: of the answers of each turn, earlier ones first; by default only the last counts."""
    if any(turn.earlier for turn in turns) and weights:
        (turn,), (each,) = turns, weights
        ids, spans = turn.prompt + turn.answer, [*turn.earlier, (len(turn.prompt), len(turn.prompt + turn.answer))]
        first = spans[0][0]
        trained = [(start - first, end - first, weight) for (start, end), weight in zip(spans, each, strict=True)]
        return TokenSequence(key, ids[:first], [(ids[first:], 0)], media, answers=[trained])
    shared = count_common_prefix([t.prompt for t in turns])
    branches = [(t.prompt[shared:] + t.answer, len(t.prompt) - shared) for t in turns]
    answers: list[list[Span]] = []
    if any(weight != 1 for each in weights for weight in each):
        answers = [[(skipped, len(ids), each[-1])] for (ids, skipped), each in zip(branches, weights, strict=True)]
    return TokenSequence(key, turns[0].prompt[:shared], branches, media, answers=answers)
