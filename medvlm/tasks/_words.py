"""Short answers in words: how they are compared, and what the tasks that have them share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from medvlm.core.measure import Measure
from medvlm.core.sample import Truth
from medvlm.tasks._numbers import DOZENS, LARGE, read_number_words
from medvlm.tasks._phrases import list_words
from medvlm.tasks._relations import PAUSE, write_relations
from medvlm.tasks._tokens import Token, scan_tokens

GROUP = "vqa"
"""Of the measures of all tasks with short answers."""
TITLE = "Questions"
LONGEST_ANSWER = 2000
"""Characters. A longer text is not read as a short answer: no reader is meant for it, and reading costs time."""

_PAUSE = re.compile(r"[^\w\s]")
ARTICLES = frozenset({"a", "an", "the"})
_BEFORE_A_LETTER = list_words(
    "answer blood category choice class component factor family figure genotype grade group haemophilia hemophilia"
    " hepatitis image influenza label letter lineage option panel part pattern pool protein serotype species stage"
    " stanford strain subtype system tanner toxin tumor tumour type variant vitamin zone"
)
"""Words after which a single `a` is a name: `hepatitis A virus`."""


def is_too_long(answer: str, truth: Truth) -> bool:
    """Whether a text is longer than any way to write the truth."""
    return len(answer) > LONGEST_ANSWER + 2 * len(truth.answer)


def words(text: str) -> list[str]:
    """Lower-case words and signs, without punctuation and articles.

    Numbers are written one way: `2.50`, `two` and `1,024` are `2.5`, `2` and `1024`. Signs and relations that change
    what is said stay: `ER+`, `< 3 cm`, `-2`, `1:2`; `less than 3 cm` is `< 3 cm`. An `a` that is a name is no article:
    `influenza A`. Text of nothing but articles or of nothing but punctuation keeps them. Each character of a script
    without blanks is a word.
    """
    tokens = scan_tokens(text)
    forms = [token.form for token in tokens]
    kept = [token for at, token in enumerate(tokens) if not is_article(forms, at) or is_label(tokens, at)]
    return write_values(kept) or list(filter(None, ["".join(text.split())]))


def normalise(text: str) -> str:
    return " ".join(words(text))


def is_article(found: Sequence[str], at: int) -> bool:
    """Whether the word there is an article, and so says nothing."""
    if found[at] not in ARTICLES or all(word in ARTICLES for word in found):
        return False
    if found[at] == "the":
        return True
    if at + 1 == len(found) or len(found[at + 1]) == 1:  # `influenza A`, `group A 3`
        return False
    if found[at + 1] in LARGE or found[at + 1] in DOZENS:
        return False
    return not (found[at] == "a" and at > 0 and found[at - 1] in _BEFORE_A_LETTER)


def is_label(tokens: Sequence[Token], at: int) -> bool:
    """Whether it is a letter in front of a choice, as in `A) pneumonia`."""
    return tokens[at].form == "a" and at + 1 < len(tokens) and tokens[at + 1].gap.lstrip()[:1] in tuple(").:,;")


def write_values(tokens: Iterable[Token]) -> list[str]:
    """The forms of the tokens, with numbers in words as digits, and relations in words as signs."""
    tokens = list(tokens)
    forms, at, written = [token.form for token in tokens], 0, list[str]()
    while at < len(forms):
        if written and _PAUSE.search(tokens[at].gap):
            written.append(PAUSE)
        number = read_number_words(forms, at)
        written.append(forms[at] if number is None else str(number[0]))
        at = at + 1 if number is None else number[1]
    return write_relations(written)


def most_frequent(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """The commonest answer, the first of equals: no constant is right more often."""
    most, _ = Counter(normalise(truth.answer) for truth in truths).most_common(1)[0]
    return next(truth.answer for truth in truths if normalise(truth.answer) == most)
