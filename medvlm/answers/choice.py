"""A choice among named answers: how text becomes one of them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

ARTICLES = frozenset({"a", "an", "the"})
_WORD = re.compile(r"[0-9]+(?:\.[0-9]+)+|[^\W_]+%?")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles; decimal numbers and percentages stay whole.

    Text of nothing but articles keeps them: the choice `A` of a multiple-choice question is a word.
    """
    found = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return [w for w in found if w not in ARTICLES] or found


def normalise(text: str) -> str:
    return " ".join(words(text))


def parse(text: str, choices: Sequence[str]) -> str | None:
    """The choice that the text is, or the only one that it names as whole words; None otherwise.

    A choice inside a longer one does not count as named: `left lower zone` names `left lower`, not `left`.
    Known limit: negation is not read, so `not left` names `left`.
    """
    by_form, pattern, keeps_articles = _forms(tuple(choices))
    if (exact := by_form.get(normalise(text))) is not None:
        return exact
    plain = (
        " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())) if keeps_articles else normalise(text)
    )
    named, end = set(), 0
    for match in pattern.finditer(plain):
        if match.end(1) > end:
            named.add(match[1])
            end = match.end(1)
    return by_form[named.pop()] if len(named) == 1 else None


def is_right(text: str, answer: str, choices: Sequence[str]) -> bool:
    found = parse(text, choices)
    return found is not None and normalise(found) == normalise(answer)


@lru_cache(maxsize=1024)
def _forms(choices: tuple[str, ...]) -> tuple[dict[str, str], re.Pattern[str], bool]:
    """Choice by its normalised form, a pattern of the longest form at each word, and whether some form is an
    article."""
    by_form = {normalise(choice): choice for choice in reversed(choices) if words(choice)}
    longest_first = "|".join(re.escape(form) for form in sorted(by_form, key=len, reverse=True)) or r"(?!)"
    return by_form, re.compile(rf"(?<!\S)(?=({longest_first})(?!\S))"), not ARTICLES.isdisjoint(by_form)
