"""In which order things come, such as the images of a patient by their dates: all of their names, each once.

The score is Kendall's tau, the pairs in the right order minus those in the wrong one, as a share of all pairs, and 0
where it is negative: so an order that is no better than a guess earns little, and a list that leaves out what is not
known earns nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, average
from medvlm.core.sample import Medium
from medvlm.tasks._made_up import draw_answer, make_question
from medvlm.tasks._negation import find_denials, is_doubtful
from medvlm.tasks._words import is_too_long, normalise

if TYPE_CHECKING:
    import numpy as np

GLUE = ", "
_BETWEEN = re.compile(r"\s*(?:,|;|>|→|\n|\bthen\b)\s*")


@dataclass(frozen=True)
class Truth(sample.Truth):
    """items: their names, in the right order."""

    items: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len({normalise(item) for item in self.items}) != len(self.items) or len(self.items) < 2:
            raise DataError(f"expected at least two different names in order, found {', '.join(self.items) or 'none'}")
        if not self.answer:
            object.__setattr__(self, "answer", GLUE.join(self.items))


class Config(Base):
    kind: Literal["order"]


TITLE = "Orders"


def from_text(text: str, config: Config) -> Truth | None:
    """Names with commas, semicolons, `>` or lines between them; None for fewer than two, and for one twice."""
    items = tuple(item for item in _BETWEEN.split(text) if item)
    different = {normalise(item) for item in items}
    return Truth(items=items) if len(items) > 1 and len(different) == len(items) else None


def parse(text: str, truth: Truth) -> tuple[str, ...] | None:
    """The names in the order of the text; None unless each is there once, and for an order that is denied or doubted.
    Names are words of their own; the longest is read first."""
    if is_too_long(text, truth):
        return None
    by_form = {normalise(item): item for item in truth.items}
    forms = sorted(by_form, key=len, reverse=True)
    plain = normalise(_BETWEEN.sub(" ", text))
    found = re.findall(rf"(?<!\S)(?:{'|'.join(map(re.escape, forms))})(?!\S)", plain)
    if sorted(found) != sorted(forms) or find_denials(plain) or is_doubtful(plain):
        return None
    return tuple(by_form[form] for form in found)


def is_formatted(answer: str, truth: Truth) -> bool:
    """The names alone, with commas between them."""
    return sorted(answer.split(GLUE)) == sorted(truth.items)


def score(answer: str, truth: Truth) -> float:
    return max(0.0, tau(answer, truth))


def tau(answer: str, truth: Truth) -> float:
    """Kendall's tau, -1 to 1; -1 for an answer that cannot be read."""
    found = parse(answer, truth)
    if found is None:
        return -1.0
    place = {item: number for number, item in enumerate(found)}
    signs = [1 if place[a] < place[b] else -1 for a, b in combinations(truth.items, 2)]
    return sum(signs) / len(signs)


def is_exact(answer: str, truth: Truth) -> float:
    return float(parse(answer, truth) == truth.items)


def is_unreadable(answer: str, truth: Truth) -> float:
    return float(parse(answer, truth) is None)


MEASURES = (
    Measure("tau", "order", average(tau), by_template=True, headline=True, words="Kendall's tau", bounds=(-1.0, 1.0)),
    Measure("exact", "order", average(is_exact), by_template=True, headline=True),
    Measure("unreadable", "order", average(is_unreadable), better=None),
)


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """Of the orders in `truths`, the one with the best value of the measure."""
    judge = is_exact if measure is not None and measure.metric == "exact" else tau
    frequent = [answer for answer, _ in Counter(truth.answer for truth in truths).most_common(60)]
    return max(frequent, key=lambda answer: sum(judge(answer, truth) for truth in truths))


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth]:
    question = make_question(rng, "order")
    number, _ = draw_answer(rng)
    items = ("A", "B", "C", "D")
    return question, Truth(items=items[number:] + items[:number])


_THREE = Truth(items=("B", "A", "C"))

EXAMPLES = [
    ("B, A, C", _THREE, 1.0),
    ("B > A > C", _THREE, 1.0),
    ("Image B, then image A, then image C.", _THREE, 1.0),
    ("A, B, C", _THREE, 1 / 3),
    ("B, C, A", _THREE, 1 / 3),
    ("C, A, B", _THREE, 0.0),
    # A part of the order, several orders, one name again and again, and none.
    ("B, A", _THREE, 0.0),
    ("B", _THREE, 0.0),
    ("B, A, C or A, B, C", _THREE, 0.0),
    ("A, B, C, A, B, C", _THREE, 0.0),
    ("not B, A, C", _THREE, 0.0),
    ("", _THREE, 0.0),
]
