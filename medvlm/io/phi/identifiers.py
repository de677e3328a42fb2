"""Finds the identifiers of a sample (of its patient, study and files) in the texts that are stored with it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from functools import lru_cache

from medvlm.io.phi.ordinary import ORDINARY
from medvlm.io.phi.plain_text import spell_plainly

_MOST_WORDS, _MOST_LETTERS = 4, 80
"""A longer identifier without digits is a sentence, not a name: only the whole of it is looked for."""
_LEAST = 4
"""Letters of a name that is looked for."""
_CASELESS = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{2,}")
"""Names in scripts without blanks between words."""


def count_identifiers(text: str, identifiers: Iterable[str], public: Collection[str] = ()) -> int:
    """How many of the identifiers the text contains, in any case and with any blanks, dashes or commas within.

    Numbers of fewer than 3 digits and identifiers of fewer than 5 characters are not looked for, nor words that reports
    use. An identifier without digits is a name: each word of it is looked for. public: words in lower case that are no
    names, e.g. those of the card.
    """
    text = _flatten(text)
    return sum(
        any(
            word not in public and _finds(pattern, text, identifier, word) for word, pattern in _patterns_of(identifier)
        )
        for identifier in set(identifiers)
    )


def _finds(pattern: re.Pattern[str], text: str, identifier: str, word: str) -> bool:
    """A word counts only where a capital, in the text or in the archive, makes it a name: files are called `ramp`."""
    is_name = not word or identifier != identifier.lower() or _CASELESS.fullmatch(word)
    return any(is_name or match[0] != match[0].lower() for match in pattern.finditer(text))


@lru_cache(maxsize=4096)
def _flatten(text: str) -> str:
    """Plain text without accents."""
    spelled = unicodedata.normalize("NFKD", spell_plainly(text))
    return unicodedata.normalize("NFC", "".join(char for char in spelled if not unicodedata.combining(char)))


@lru_cache(maxsize=4096)
def _patterns_of(identifier: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """The word that must not be public, "" if there is none, and what to search."""
    plain = _flatten(identifier[:400]).strip().casefold()
    squeezed, digits = re.sub(r"[\W_]+", "", plain), sum(char.isdecimal() for char in plain)
    if not squeezed:
        return ()
    if digits:
        if digits < 3 or len(squeezed) < 5:
            return ()
        words = re.findall(r"[^\W\d_]{3,}", plain)
        is_counted = bool(words) and all(word in ORDINARY for word in words)
        # `film100` may be the hundredth film, of which a text may speak as `film 100`.
        exact = re.compile(rf"(?<![^\W_]){re.escape(plain)}(?![^\W_])", re.I)
        return (("", exact if is_counted and digits < 7 else _allow_gaps(squeezed)),)
    words = re.findall(r"[^\W\d_]+", plain)
    if len(words) > _MOST_WORDS or len(plain) > _MOST_LETTERS:
        return (("", _allow_gaps(squeezed)),)
    if _CASELESS.fullmatch(squeezed):
        return ((squeezed, re.compile(re.escape(squeezed))),)
    names = [word for word in words if len(word) >= _LEAST and word not in ORDINARY]
    patterns = [(word, re.compile(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", re.I)) for word in names]
    unusual = [word for word in words if word not in ORDINARY]
    return (
        (*patterns, (squeezed, _allow_gaps(squeezed)))
        if len(words) > 1 and unusual and len(squeezed) > 4
        else tuple(patterns)
    )


def _allow_gaps(squeezed: str) -> re.Pattern[str]:
    """A pattern of the characters with at most two others between them; of a number only with blanks and dashes."""
    if squeezed.isdecimal():
        number = squeezed.lstrip("0") if len(squeezed.lstrip("0")) >= 5 else squeezed
        return re.compile(rf"(?<![^\W_])(?<!\d[.,])0*{'[ -]?'.join(number)}(?![^\W_]|[.,]\d)")
    return re.compile(rf"(?<![^\W_]){'[^a-z0-9]{0,2}'.join(map(re.escape, squeezed))}(?![^\W_])", re.I)
