"""Free short answers: equal after normalisation, or by how many words they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Literal

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.measure import Measure, OfJudge, average
from medvlm.core.sample import Medium
from medvlm.tasks import _words
from medvlm.tasks._made_up import WORDS, draw_answer, make_question
from medvlm.tasks._words import normalise, words

if TYPE_CHECKING:
    import numpy as np

CLOSED = "closed:"
"""Templates that start so hold the questions that their archive calls closed (VQA-RAD: answer_type CLOSED), whatever
their answers."""


@dataclass(frozen=True)
class Truth(sample.Truth):
    pass


class Config(Base):
    kind: Literal["open"]


FREE_TEXT = True
TITLE = _words.TITLE
CANDIDATES, JUDGES = 60, 200
"""Constant answers that are tried, and questions they are tried on, for a measure for which the commonest answer need
not be the best."""


def score(answer: str, truth: Truth) -> float:
    """1 for the same words and signs in the same order, without case, punctuation and articles (see `_words.words`)."""
    if _words.is_too_long(answer, truth):
        return 0.0
    return float(normalise(answer) == normalise(truth.answer))


def token_f1(answer: str, truth: Truth) -> float:
    """Harmonic mean of the precision and recall of words, each counted as often as it stands; 1 for two empty texts.

    Source: Rajpurkar et al. 2016 (SQuAD), section 6.1, with the normalisation of `_words.words`.
    """
    found, expected = Counter(words(answer)), Counter(words(truth.answer))
    if not found or not expected:
        return float(found == expected)
    shared = (found & expected).total()
    return 2 * shared / (found.total() + expected.total())


def token_recall(answer: str, truth: Truth) -> float:
    """The share of the words of the truth that the answer has, 0 for a text that is far longer than the truth.

    As LLaVA-Med (Li et al. 2023, https://arxiv.org/abs/2306.00890) scores open questions. It rewards long answers, so
    it is no reward and no headline.
    """
    if _words.is_too_long(answer, truth):
        return 0.0
    found, expected = Counter(words(answer)), Counter(words(truth.answer))
    return (found & expected).total() / expected.total() if expected else 1.0


def is_closed(template: str, truth: sample.Truth) -> bool:
    return template.startswith(CLOSED)


def is_open(template: str, truth: sample.Truth) -> bool:
    return not template.startswith(CLOSED)


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """The commonest answer; for the F1 and the recall of words, the best of the commonest ones, since an answer that
    shares words with many may be the only one of its kind."""
    share = SHARES.get(measure.metric) if measure else None
    if share is None:
        return _words.most_frequent(truths)
    commonest = Counter(truth.answer for truth in truths).most_common(CANDIDATES)
    judges = [truths[i * len(truths) // JUDGES] for i in range(JUDGES)] if len(truths) > JUDGES else truths
    return max((answer for answer, _ in commonest), key=lambda answer: mean(share(answer, t) for t in judges))


SHARES = {"f1_open": token_f1, "recall_open": token_recall}
"""Measures of the words that an answer shares with its truth."""
MEASURES = (
    Measure("accuracy", _words.GROUP, average(score), by_template=True, headline=True),
    Measure("accuracy_closed", _words.GROUP, average(score), is_closed, headline=True),
    Measure("accuracy_open", _words.GROUP, average(score), is_open),
    *(Measure(metric, _words.GROUP, average(share), is_open) for metric, share in SHARES.items()),
    Measure("judged_closed", _words.GROUP, OfJudge("closed"), is_closed, headline=True),
    Measure("judged_open", _words.GROUP, OfJudge("open"), is_open, headline=True),
)


def from_text(text: str, config: Config) -> Truth:
    return Truth(text)


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth]:
    question = make_question(rng, "open")
    draw_answer(rng)
    return question, Truth(str(rng.choice(WORDS)))


_PLACE = Truth("right upper lobe")

EXAMPLES = [
    ("right upper lobe", _PLACE, 1.0),
    ("The right upper lobe.", _PLACE, 1.0),
    ("left upper lobe", _PLACE, 0.0),
    ("upper right lobe", _PLACE, 0.0),
    # Saying more, or everything, does not make it right.
    ("right upper lobe or left upper lobe", _PLACE, 0.0),
    ("right upper lobe " * 20, _PLACE, 0.0),
    ("", _PLACE, 0.0),
]
