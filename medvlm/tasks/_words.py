"""Short answers in words: how they are compared, and what the tasks that have them share."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from medvlm.core.measure import Measure
from medvlm.core.sample import Truth

GROUP = "vqa"
"""Of the measures of all tasks with short answers."""
TITLE = "Questions"

ARTICLES = frozenset({"a", "an", "the"})
_WORD = re.compile(r"[0-9]+(?:\.[0-9]+)+|[^\W_]+%?")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles; decimal numbers and percentages stay whole.

    Text of nothing but articles keeps them: the choice `A` of a multiple-choice question is a word.
    """
    found = all_words(text)
    return [w for w in found if w not in ARTICLES] or found


def all_words(text: str) -> list[str]:
    """As `words`, with the articles."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normalise(text: str) -> str:
    return " ".join(words(text))


def most_frequent(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """The commonest answer, the first of equals: no constant is right more often."""
    most, _ = Counter(normalise(truth.answer) for truth in truths).most_common(1)[0]
    return next(truth.answer for truth in truths if normalise(truth.answer) == most)
