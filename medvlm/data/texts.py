"""Texts as the text tower of a dual encoder reads them, in training and in evaluation alike."""

from __future__ import annotations

from typing import Any

from medvlm.core.errors import DataError
from medvlm.data.control_words import holds_words, tokenize_plain


def tokenize_text(tokenizer: Any, text: str, tower: Any, where: str) -> list[int]:
    """tower: the config of the text tower. Raises DataError for a text longer than `max_tokens`, unless `overlong` is
    `cut`."""
    is_plain = holds_words(text, tokenizer)
    ids: list[int] = tokenize_plain(text, tokenizer, True) if is_plain else tokenizer(text).input_ids
    limit: int = tower.max_tokens
    if len(ids) > limit and tower.overlong == "cut":
        return [*ids[: limit - 1], ids[-1]]
    if len(ids) > limit:
        raise DataError(
            f"{where}: the text has {len(ids)} tokens, and the text tower reads at most {limit}; raise"
            " stages.NAME.text.max_tokens, set text.overlong: cut, or shorten it"
        )
    return ids


def tokenize_prompt(tokenizer: Any, tower: Any, text: str) -> list[int]:
    """The text of a prompt of a decoder."""
    return tokenize_text(tokenizer, text, tower, "a prompt")
