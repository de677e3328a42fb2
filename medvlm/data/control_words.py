"""Words that a tokenizer reads as control tokens (`</s>`, `<|im_end|>`) or that a processor replaces by an image
(`<image>`, `<|image_pad|>`) are text where an archive's text holds them.

A text that holds one is cut around it, and the word is tokenized by itself, as plain text. Every other text is
tokenized as before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from medvlm.core.errors import DataError

CUT, HIDE = "\ufdd0", "\ufdd1"
"""CUT stands where a text is cut, and HIDE inside a word that nothing may find until it is tokenized. Unicode assigns
them to no letter, ever."""

_WRITTEN = re.compile(r"</?(?:loc_?|seg|ref|box|quad|point|obj|region)\d*>|\[SEG\]")
"""Special tokens in which answers are written: boxes, their labels, and masks."""


def shield(text: str, tokenizer: Any, media_words: frozenset[str] = frozenset()) -> str:
    """The text, with a cut before and after each control word, which is hidden from chat templates and processors.

    media_words: those that mark media, which need not be special tokens."""
    pattern = _find_words(tokenizer, media_words)
    if pattern is None or not pattern.search(text):
        return text
    # The blank before it goes along: tokenizers that begin a text with a blank would else make two of it.
    blank_or_not = rf" ?(?:{pattern.pattern})"
    plain = text.replace(CUT, "").replace(HIDE, "")
    return re.sub(blank_or_not, lambda word: f"{CUT}{word[0][:-1]}{HIDE}{word[0][-1]}{CUT}", plain)


def is_written(word: str) -> bool:
    """Whether answers may hold a special token."""
    return _WRITTEN.fullmatch(word) is not None


def holds_words(text: str, tokenizer: Any) -> bool:
    pattern = _find_words(tokenizer, frozenset())
    return pattern is not None and pattern.search(text) is not None


def tokenize(text: str, tokenizer: Any, add_special_tokens: bool = False) -> list[int]:
    """The ids of a text, which may have cuts. Raises DataError for a tokenizer that cannot read a control word as
    text."""
    first, *rest = text.split(CUT)
    ids: list[int] = list(tokenizer(first, add_special_tokens=add_special_tokens).input_ids)
    for number, part in enumerate(rest):
        is_word = number % 2 == 0
        ids += (
            _spell(part.replace(HIDE, ""), tokenizer)
            if is_word
            else tokenizer(part, add_special_tokens=False).input_ids
        )
    return ids


def tokenize_plain(text: str, tokenizer: Any, add_special_tokens: bool = False) -> list[int]:
    """The ids of a text without control tokens but those that the tokenizer puts around it."""
    ids: list[int] = tokenizer(text, add_special_tokens=add_special_tokens, split_special_tokens=True).input_ids
    bare: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    if _list_control_ids(tokenizer) & set(bare):
        raise DataError(
            "a text holds a control word of the tokenizer (such as </s>), which this tokenizer cannot read as text;"
            " remove it from the archive's text"
        )
    return ids


def read_answer(ids: Sequence[int], tokenizer: Any) -> str:
    """The text of an answer, without control tokens except those that answers are written in."""
    hidden = _list_hidden_ids(tokenizer)
    if hidden is None:
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
    return str(tokenizer.decode([id_ for id_ in ids if id_ not in hidden])).strip()


def _spell(word: str, tokenizer: Any) -> list[int]:
    """The ids of a control word as text. A tokenizer that finds the word wherever it stands gets its two halves."""
    control = _list_control_ids(tokenizer) | {tokenizer.convert_tokens_to_ids(word.strip())}
    control.discard(tokenizer.unk_token_id)
    ids: list[int] = tokenizer(word, add_special_tokens=False, split_special_tokens=True).input_ids
    if not control & set(ids):
        return ids
    half = (len(word) + 1) // 2
    return tokenize_plain(word[:half], tokenizer) + tokenize_plain(word[half:], tokenizer)


def _list_control_ids(tokenizer: Any) -> set[int]:
    return {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special} - {tokenizer.unk_token_id}


@lru_cache(maxsize=32)
def _list_hidden_ids(tokenizer: Any) -> frozenset[int] | None:
    """The ids of special tokens that are no text of an answer; None if that is all of them."""
    special = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    hidden = frozenset(id_ for id_, token in special.items() if not is_written(token))
    return hidden if len(hidden) < len(special) else None


@lru_cache(maxsize=32)
def _find_words(tokenizer: Any, media_words: frozenset[str]) -> re.Pattern[str] | None:
    """All special tokens but those that answers are written in, and the words of media."""
    added = getattr(tokenizer, "added_tokens_decoder", {})  # not of the stand-in that a plan uses
    if not added:
        return None
    special = {str(token) for token in added.values() if token.special}
    words = {word for word in special if len(word) > 1 and not is_written(word)} | media_words
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, longest_first))) if words else None
