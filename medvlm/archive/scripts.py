"""The script of a text, by which its language can be told from others: arabic, han, latin ..."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_NAMES = {"cjk": "han", "hiragana": "kana", "katakana": "kana"}


def find_script(text: str) -> str:
    """That of most of its letters, of which those of tags such as <box> are none; "" for a text without letters."""
    letters = filter(str.isalpha, re.sub(r"<[^<>]*>", "", text))
    counts = Counter(unicodedata.name(letter, "").partition(" ")[0].casefold() for letter in letters)
    name = next((name for name, _ in counts.most_common(1)), "")
    return _NAMES.get(name, name)
