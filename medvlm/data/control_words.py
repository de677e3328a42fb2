"""Words that a tokenizer reads as control tokens (`</s>`, `<|im_end|>`) are text where an archive's text holds them.

A text that holds one is cut around it, and the word is tokenized by itself, as plain text. Every other text is
tokenized as before.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from medvlm.core.errors import DataError

CUT = "\ufdd0"
"""Stands where a text is cut; Unicode assigns it to no letter, ever."""

_WRITTEN = re.compile(r"</?(?:loc|seg|ref|box|quad|point|obj|region)\d*>")
"""Special tokens of families in which answers are written: boxes and their labels."""
_BARE = re.compile(r"<\|[^|<>]+\|>|</?s>|<(?:pad|unk|bos|eos|start_of_turn|end_of_turn|start_of_image|end_of_image)>")


def shield(text: str, tokenizer: Any) -> str:
    """The text, with a cut before and after each control word."""
    if not holds_words(text, tokenizer):
        return text
    pattern = _find_words(tokenizer)
    assert pattern is not None
    # The blank before it goes along: tokenizers that begin a text with a blank would else make two of it.
    return re.sub(rf" ?(?:{pattern.pattern})", lambda word: f"{CUT}{word[0]}{CUT}", text.replace(CUT, ""))


def holds_words(text: str, tokenizer: Any) -> bool:
    pattern = _find_words(tokenizer)
    return pattern is not None and pattern.search(text) is not None


def tokenize(text: str, tokenizer: Any, add_special_tokens: bool = False) -> list[int]:
    """The ids of a text, which may have cuts. Raises DataError for a tokenizer that cannot read a control word as
    text."""
    first, *rest = text.split(CUT)
    ids: list[int] = list(tokenizer(first, add_special_tokens=add_special_tokens).input_ids)
    for number, part in enumerate(rest):
        is_word = number % 2 == 0
        ids += tokenize_plain(part, tokenizer) if is_word else tokenizer(part, add_special_tokens=False).input_ids
    return ids


def tokenize_plain(text: str, tokenizer: Any, add_special_tokens: bool = False) -> list[int]:
    """The ids of a text without control tokens but those that the tokenizer puts around it."""
    ids: list[int] = tokenizer(text, add_special_tokens=add_special_tokens, split_special_tokens=True).input_ids
    bare: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    control = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    if control & set(bare) - {tokenizer.unk_token_id}:
        raise DataError(
            "a text holds a control word of the tokenizer (such as </s>), which this tokenizer cannot read as text;"
            " remove it from the archive's text"
        )
    return ids


def _find_words(tokenizer: Any) -> re.Pattern[str] | None:
    template = getattr(tokenizer, "chat_template", None)
    return _compile(tokenizer, template if isinstance(template, str) else "")


@lru_cache(maxsize=32)
def _compile(tokenizer: Any, template: str) -> re.Pattern[str] | None:
    """The special tokens that structure a dialogue: those with a name (end of text, padding), those in the template,
    and those that look like one. Others may be words that answers are written in."""
    added = getattr(tokenizer, "added_tokens_decoder", {})  # not of the stand-in that a plan uses
    if not added:
        return None
    special = {str(token) for token in added.values() if token.special}
    named = set(map(str, tokenizer.all_special_tokens))
    words = {
        word
        for word in special
        if len(word) > 1
        and not _WRITTEN.fullmatch(word)
        and (word in named or word in template or _BARE.fullmatch(word))
    }
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, longest_first))) if words else None
