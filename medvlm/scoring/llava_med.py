"""The rule of LLaVA-Med for VQA-RAD, SLAKE and PathVQA: closed questions by containment, open ones by recall of words.

A closed answer is right if it has `yes` or `no` anywhere (also in `nodule`) and contains the reference. An answer that
says both `yes` and `no` is right, and a closed question that is not answered by yes or no (`left`) is right only if
its answer happens to contain one of them too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from medvlm.core.measure import Measure, average
from medvlm.core.scoring import RuleConfig
from medvlm.scoring._closed import is_closed, is_open
from medvlm.scoring._words import normalise_words

SOURCE = "LLaVA-Med (arXiv 2306.00890), llava/eval/run_eval.py at b9a98a7"


class Config(RuleConfig):
    kind: Literal["llava_med"] = "llava_med"


def list_measures(config: Config) -> Sequence[Measure]:
    return (
        Measure("accuracy_closed", config.kind, average(score_closed), is_closed),
        Measure("recall_open", config.kind, average(lambda answer, truth: count_shared(answer, truth)[1]), is_open),
        Measure("f1_open", config.kind, average(score_f1), is_open),
    )


def score_closed(answer: str, truth: Any) -> float:
    said, right = normalise_words(answer.lower()), normalise_words(truth.answer.lower())
    return float(("yes" in said or "no" in said) and right in said)


def count_shared(answer: str, truth: Any) -> tuple[float, float]:
    """Precision and recall of words. A shared word counts as often as the answer has it, in both.

    So the recall of `left left` against `left lung` is 2 / 3.
    """
    said, right = (Counter(normalise_words(normalise_words(text.lower())).split()) for text in (answer, truth.answer))
    shared = sum(n for word, n in said.items() if word in right)
    if not shared:
        return 0.0, 0.0
    missed = sum(n for word, n in right.items() if word not in said)
    return shared / said.total(), shared / (shared + missed)


def score_f1(answer: str, truth: Any) -> float:
    precision, recall = count_shared(answer, truth)
    return 2 * precision * recall / (precision + recall) if precision else 0.0
