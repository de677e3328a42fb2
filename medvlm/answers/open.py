"""Free short answers: equal after normalisation, or by how many words they share."""

from __future__ import annotations

from collections import Counter

from medvlm.answers.choice import normalise, words


def is_same(text: str, answer: str) -> bool:
    return normalise(text) == normalise(answer)


def token_f1(text: str, answer: str) -> float:
    """Harmonic mean of the precision and recall of words, each counted as often as it stands; 1 for two empty texts.

    Source: Rajpurkar et al. 2016 (SQuAD), section 6.1, with the normalisation of `choice.words`.
    """
    found, expected = Counter(words(text)), Counter(words(answer))
    if not found or not expected:
        return float(found == expected)
    shared = (found & expected).total()
    return 2 * shared / (found.total() + expected.total())
