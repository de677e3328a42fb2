"""Long free texts, such as reports and captions: how much of their words and phrases an answer has, and of chest
radiographs which findings.

Words are those of `_tokens.scan_tokens`, with articles and without punctuation. Measures of words reward the wording:
they do not tell whether a finding was seen or missed. Measures of findings need rules for the kind of report
(`findings` in the card), so they exist for English reports of chest radiographs only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, OfCorpus, OfItems, OfJudge, average, fit_columns
from medvlm.core.radeval_config import KEYS, LOWEST
from medvlm.core.sample import Medium
from medvlm.tasks._made_up import draw_answer, make_question
from medvlm.tasks._sections import SECTIONS, read_sections
from medvlm.tasks._tokens import scan_tokens
from medvlm.tasks._words import is_too_long
from medvlm.tasks.chest.compare import count_findings, count_findings_by_class, count_findings_with_side
from medvlm.tasks.chest.temporal import temporal_f1

if TYPE_CHECKING:
    import numpy as np

    from medvlm.metrics.text import Words


@dataclass(frozen=True)
class Truth(sample.Truth):
    """findings: the kind of report whose findings are read and compared, see Config; "" if they are not."""

    findings: str = ""

    def to_json(self) -> dict[str, Any]:
        record = super().to_json()
        return record if self.findings else {name: value for name, value in record.items() if name != "findings"}


class Config(Base):
    kind: Literal["report"]
    findings: Literal["english_chest_radiograph"] | None = None
    """The kind of report, so that its findings are compared too. Only for reports of chest radiographs in English: the
    rules that read them give meaningless numbers for others, which are refused where the images tell."""


FREE_TEXT = True
IS_LONG = True
TITLE = "Reports"
GROUP = "report"
CANDIDATES, COMPARED = 50, 200
"""Numbers of texts among which the best constant is looked for, and that they are compared with."""


RADIOGRAPHS = frozenset({"", "x-ray", "xray", "x ray", "cr", "dx", "rx", "radiograph", "radiography"})
"""Modalities of images that a report of a radiograph may be about, in lower case; "" is not known."""


def from_text(text: str, config: Config) -> Truth:
    return Truth(text, config.findings or "")


def check(truth: Truth, media: Sequence[Medium]) -> None:
    """Raises DataError for findings of a radiograph if the sample has other media."""
    for medium in media if truth.findings else ():
        if len(medium.size) != 2 or medium.modality.lower() not in RADIOGRAPHS:
            what = f"{medium.modality or medium.kind} of {len(medium.size)} axes"
            raise DataError(
                f"{medium.member} is a {what}, and `findings: {truth.findings}` reads reports of radiographs only;"
                " remove `findings` from the card's question"
            )


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


def _shorten(count: Callable[[str, str], Any]) -> Callable[[str, Truth], Any]:
    """A count or score of two texts as columns. An answer that is far longer than the truth is read as none."""
    return lambda answer, truth: count("" if is_too_long(answer, truth) else answer, truth.answer)


def _f1(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    from medvlm.metrics.f1 import f1

    return f1(items_NK, times_RN)


def has_findings(template: str, truth: Truth) -> bool:
    return bool(truth.findings)


def _has(section: str, measure: Measure) -> Callable[[str, Truth], bool]:
    return lambda template, truth: section in read_sections(truth.answer) and measure.is_about(template, truth)


def _cut(section: str, columns: Callable[[str, Truth], Any]) -> Callable[[str, Truth], Any]:
    """The columns of one section of both texts. An answer without the section is compared as an empty text."""
    return lambda answer, truth: columns(
        read_sections(answer).get(section, ""), replace(truth, answer=read_sections(truth.answer).get(section, ""))
    )


def _measure_section(measure: Measure, section: str) -> Measure:
    """About the reports that have the section."""
    return replace(
        measure,
        metric=f"{measure.metric}_{section}",
        columns=_cut(section, measure.columns),
        is_about=_has(section, measure),
        words=f"{measure.words}, {section}",
        headline=False,
        by_template=False,
    )


_BLEU_4 = Measure("bleu_4", GROUP, _count_bleu(4), statistic=_bleu, headline=True, by_template=True, words="BLEU-4")
_ROUGE_L = Measure("rouge_l", GROUP, average(_rouge_l), headline=True, by_template=True, words="ROUGE-L")
_FINDING_F1 = Measure(
    "finding_f1",
    GROUP,
    _shorten(count_findings),
    has_findings,
    statistic=OfItems(_f1),
    headline=True,
    by_template=True,
    words="F1 of findings",
)
_OF_FINDINGS = (
    _FINDING_F1,
    replace(
        _FINDING_F1,
        metric="finding_f1_side",
        columns=_shorten(count_findings_with_side),
        words="F1 of findings with their side",
        by_template=False,
    ),
    replace(
        _FINDING_F1,
        metric="finding_f1_macro",
        columns=_shorten(count_findings_by_class),
        by_class=True,
        by_template=False,
        words="F1 of findings, mean of the classes",
    ),
    Measure("temporal_f1", GROUP, average(_shorten(temporal_f1)), has_findings, words="F1 of words of change"),
)
MEASURES = (
    Measure("bleu_1", GROUP, _count_bleu(1), statistic=_bleu, words="BLEU-1"),
    _BLEU_4,
    _ROUGE_L,
    Measure("cider", GROUP, OfCorpus(_fit_cider), headline=True, words="CIDEr", bounds=(0.0, 10.0)),
    Measure("token_f1", GROUP, average(score), by_template=True, words="F1 of words"),
    Measure("token_recall", GROUP, average(find_recall), words="recall of words"),
    Measure("judged", GROUP, OfJudge("long"), headline=True, words="score of the judge"),
    Measure("meteor", GROUP, OfJudge("meteor"), words="METEOR"),
    *_OF_FINDINGS,
    *(
        Measure(
            f"radeval_{key}",
            GROUP,
            OfJudge(f"radeval_{key}"),
            has_findings,
            words=f"RadEval {key}",
            bounds=(LOWEST.get(key, 0.0), 1.0),
        )
        for keys in KEYS.values()
        for key in keys
    ),
    *(_measure_section(measure, section) for section in SECTIONS for measure in (_BLEU_4, _ROUGE_L, _FINDING_F1)),
)


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """Of the most frequent texts, the one with the best value of the measure on these truths; for the score of a judge,
    and for a measure that is about none of them, that of the first measure."""
    is_of_answers = measure is not None and not isinstance(measure.columns, OfJudge)
    about = [truth for truth in truths if measure and is_of_answers and measure.is_about("", truth)]
    return _find_constant(tuple(about), measure) if measure and about else _find_constant(tuple(truths), MEASURES[0])


@lru_cache(maxsize=4)  # every measure that is about none of the truths asks for that of the first
def _find_constant(truths: tuple[Truth, ...], measure: Measure) -> str:
    some = [truths[i * len(truths) // COMPARED] for i in range(COMPARED)] if len(truths) > COMPARED else truths
    columns = fit_columns(measure, truths)
    frequent = [answer for answer, _ in Counter(truth.answer for truth in truths).most_common(CANDIDATES)]
    return max(frequent, key=lambda answer: _find_value(measure, [columns(answer, truth) for truth in some]))


def _find_value(measure: Measure, columns: Sequence[Any]) -> float:
    """The metric, the mean of the classes where it is by class; -1 where nothing defines it."""
    import numpy as np

    from medvlm.metrics.bootstrap import value

    classes = [[each[name] for each in columns] for name in columns[0]] if measure.by_class else [columns]
    values = np.array([value(np.array(of_class), measure.statistic) for of_class in classes])
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else -1.0


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
