"""Turns questions and answers into token ids with the chat template, in training and evaluation alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from medvlm.core.errors import DataError, RecipeError, shorten
from medvlm.core.text import count_common_prefix
from medvlm.data.control_words import shield, tokenize


@dataclass(frozen=True)
class Turn:
    """One question: its prompt ids, and the ids of its answer with the template's end token ([] = to be generated)."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Dialogue:
    """tokenizer: of transformers, with a chat template. image_token: occurs once per image in the text, and is repeated
    for each image token before tokenizing, as in LlavaProcessor."""

    tokenizer: Any
    image_token: str

    def __post_init__(self) -> None:
        # The same questions recur, and rendering a template holds the GIL for a tenth of a millisecond.
        object.__setattr__(self, "_ids", lru_cache(maxsize=8192)(self._ids))

    def turn(self, text: str, image_tokens: Sequence[int], answer: str | None) -> Turn:
        """image_tokens: number of tokens of each medium, in order; the media come before the text.

        Raises DataError if the template changes the prompt when an answer follows."""
        marks = frozenset({self.image_token})
        text, answer = shield(text, self.tokenizer, marks), answer and shield(answer, self.tokenizer, marks)
        asked, counts = self.image_token * len(image_tokens) + text, tuple(image_tokens)
        prompt = self._ids(asked, None, counts)
        if answer is None:
            return Turn(list(prompt), [])
        whole = self._ids(asked, answer, counts)
        if whole[: len(prompt)] != prompt:
            raise DataError(
                "the chat template changes the prompt when an answer follows, so labels would be misplaced; use another"
                " chat template"
            )
        return Turn(list(prompt), list(whole[len(prompt) :]))

    def _ids(self, asked: str, answer: str | None, image_tokens: tuple[int, ...]) -> tuple[int, ...]:
        messages = [{"role": "user", "content": asked}] + (
            [] if answer is None else [{"role": "assistant", "content": answer}]
        )
        text: str = fill_template(self.tokenizer, messages, tokenize=False, add_generation_prompt=answer is None)
        before, *after = text.split(self.image_token)
        if len(after) != len(image_tokens):
            raise DataError(f"the chat template kept {len(after)} of {len(image_tokens)} image placeholders")
        expanded = before + "".join(self.image_token * n + part for n, part in zip(image_tokens, after, strict=True))
        found = tuple(tokenize(expanded, self.tokenizer, add_special_tokens=False))
        if (number := found.count(self.tokenizer.convert_tokens_to_ids(self.image_token))) != sum(image_tokens):
            raise DataError(
                f"the tokenizer made {number} image tokens, expected {sum(image_tokens)}; {self.image_token} must be a"
                " single token of its vocabulary"
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


@dataclass(frozen=True)
class TokenSequence:
    """One document for the language model: a shared prefix, and the continuations (branches) that follow it.

    branches: (ids, number of leading ids without a loss). media: (encoder, pixels) in the order of the placeholders.
    source: the recipe's name of the data set, for statistics by source. scale: of the sides of its images, below 1 if
    they were scaled down to fit. row: which of the rank's rows of the step it is in, if rows were planned."""

    key: str
    prefix: list[int]
    branches: list[tuple[list[int], int]]
    media: list[tuple[str, Any]]
    source: str = ""
    scale: float = 1.0
    row: int | None = None

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(ids) for ids, _ in self.branches)


def join_turns(key: str, turns: Sequence[Turn], media: list[tuple[str, Any]]) -> TokenSequence:
    """Turns about the same media as one sequence: the common start of their prompts is its prefix."""
    shared = count_common_prefix([t.prompt for t in turns])
    branches = [(t.prompt[shared:] + t.answer, len(t.prompt) - shared) for t in turns]
    return TokenSequence(key, turns[0].prompt[:shared], branches, media)
