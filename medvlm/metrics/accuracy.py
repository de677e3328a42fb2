"""Whether a short answer is right, by the same reading as the rewards."""

from __future__ import annotations

from medvlm.answers.choice import is_right
from medvlm.answers.open import is_same, token_f1
from medvlm.core.sample import Truth


def correct(answer: str, truth: Truth) -> float:
    """1.0 or 0.0. A choice: the right one is named and no other; an open answer: equal after normalisation."""
    if truth.task == "choice":
        return float(is_right(answer, truth.answer, truth.choices))
    return float(is_same(answer, truth.answer))


def f1(answer: str, truth: Truth) -> float:
    return token_f1(answer, truth.answer)
