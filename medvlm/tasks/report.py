"""Long free texts, such as reports and captions: how much of their words and phrases an answer has.

Words are those of `_tokens.scan_tokens`, with articles and without punctuation. Such measures reward the wording: they
do not tell whether a finding was seen or missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.measure import Measure, OfCorpus, average, fit_columns
from medvlm.core.sample import Medium
from medvlm.tasks._made_up import draw_answer, make_question
from medvlm.tasks._tokens import scan_tokens
from medvlm.tasks._words import is_too_long

if TYPE_CHECKING:
    import numpy as np

    from medvlm.metrics.text import Words


@dataclass(frozen=True)
class Truth(sample.Truth):
    pass


class Config(Base):
    kind: Literal["report"]


FREE_TEXT = True
IS_LONG = True
TITLE = "Reports"
GROUP = "report"
CANDIDATES, COMPARED = 50, 200
"""Numbers of texts among which the best constant is looked for, and that they are compared with."""


def from_text(text: str, config: Config) -> Truth:
    return Truth(text)


@lru_cache(maxsize=4096)  # every measure reads the same texts
def split_words(text: str) -> tuple[str, ...]:
    return tuple(token.form for token in scan_tokens(text))


# --- score and measures -----------------------------------------------------------------------------


def score(answer: str, truth: Truth) -> float:
    """Harmonic mean of the precision and the recall of words, each counted as often as it stands, so that neither one
    word nor all words pay; 1 for two empty texts. Source: Rajpurkar et al. 2016 (SQuAD), section 6.1."""
    return _compare(answer, truth)[0]


def find_recall(answer: str, truth: Truth) -> float:
    """The share of the words of the truth that the answer has."""
    return _compare(answer, truth)[1]


def _compare(answer: str, truth: Truth) -> tuple[float, float]:
    """(F1, recall) of words; 0 for a text that is far longer than the truth."""
    if is_too_long(answer, truth):
        return 0.0, 0.0
    found, expected = Counter(split_words(answer)), Counter(split_words(truth.answer))
    if not found or not expected:
        return float(found == expected), float(not expected)
    shared = (found & expected).total()
    return 2 * shared / (found.total() + expected.total()), shared / expected.total()


def _count_bleu(orders: int) -> Callable[[str, Truth], tuple[float, ...]]:
    def count(answer: str, truth: Truth) -> tuple[float, ...]:
        from medvlm.metrics.text import count_bleu

        return count_bleu(split_words(answer), split_words(truth.answer), orders)

    return count


def _bleu(totals_RK: np.ndarray) -> np.ndarray:
    from medvlm.metrics.text import bleu  # numpy is imported where it is needed

    return bleu(totals_RK)


def _rouge_l(answer: str, truth: Truth) -> float:
    from medvlm.metrics.text import rouge_l

    return rouge_l(split_words(answer), split_words(truth.answer))


def _fit_cider(truths: Sequence[Truth]) -> Callable[[str, Truth], tuple[float, ...]]:
    from medvlm.metrics.text import fit_cider

    words: dict[str, Words] = {truth.answer: split_words(truth.answer) for truth in truths}
    cider = fit_cider([words[truth.answer] for truth in truths])
    return average(lambda answer, truth: cider(split_words(answer), words[truth.answer]))


MEASURES = (
    Measure("bleu_1", GROUP, _count_bleu(1), statistic=_bleu, words="BLEU-1"),
    Measure("bleu_4", GROUP, _count_bleu(4), statistic=_bleu, headline=True, by_template=True, words="BLEU-4"),
    Measure("rouge_l", GROUP, average(_rouge_l), headline=True, by_template=True, words="ROUGE-L"),
    Measure("cider", GROUP, OfCorpus(_fit_cider), headline=True, words="CIDEr", bounds=(0.0, 10.0)),
    Measure("token_f1", GROUP, average(score), by_template=True, words="F1 of words"),
    Measure("token_recall", GROUP, average(find_recall), words="recall of words"),
)


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """Of the most frequent texts, the one with the best value of the measure on these truths."""
    import numpy as np

    from medvlm.metrics.bootstrap import value

    measure = measure or MEASURES[0]
    some = [truths[i * len(truths) // COMPARED] for i in range(COMPARED)] if len(truths) > COMPARED else truths
    columns, statistic = fit_columns(measure, truths), measure.statistic
    frequent = [answer for answer, _ in Counter(truth.answer for truth in truths).most_common(CANDIDATES)]

    def judge(answer: str) -> float:
        return value(np.array([columns(answer, truth) for truth in some]), statistic)

    return max(frequent, key=judge)


# --- rehearsal --------------------------------------------------------------------------------------


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth]:
    question = make_question(rng, "report")
    draw_answer(rng)
    return question, Truth(report)


_CLEAR = Truth("The lungs are clear. No pleural effusion.")

EXAMPLES: list[tuple[Any, sample.Truth, float]] = [
    ("The lungs are clear. No pleural effusion.", _CLEAR, 1.0),
    ("the lungs are clear, no pleural effusion", _CLEAR, 1.0),
    ("The lungs are clear.", _CLEAR, 8 / 11),
    ("Fracture of a rib.", _CLEAR, 0.0),
    # One word again and again, and everything at once.
    ("effusion " * 70, _CLEAR, 2 / 77),
    ("the lungs are clear no pleural effusion " * 10, _CLEAR, 14 / 77),
    ("", _CLEAR, 0.0),
]
