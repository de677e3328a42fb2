"""The rule of MedXpertQA: the first capital letter of an option that stands alone in the answer is what was answered.

`A` at the beginning of a sentence counts as option A.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from medvlm.core.measure import Measure, average
from medvlm.core.sample import Truth
from medvlm.core.scoring import RuleConfig
from medvlm.scoring._options import has_options

SOURCE = "MedXpertQA (arXiv 2501.18362), answer_cleansing in eval/utils.py at f21247d, zero-shot"
_IGNORED = ("I understand", "A through J", "A through E", "A through D")


class Config(RuleConfig):
    kind: Literal["medxpertqa"] = "medxpertqa"


def list_measures(config: Config) -> Sequence[Measure]:
    return (Measure("accuracy", config.kind, average(score), is_about),)


def is_about(template: str, truth: Truth) -> bool:
    return has_options(truth)


def score(answer: str, truth: Any) -> float:
    """Read behind `Among A through E, the answer is`, else behind ` answer is `, else from the beginning."""
    letters = truth.choices
    for before in (f"Among {letters[0]} through {letters[-1]}, the answer is", " answer is "):
        if before in answer:
            answer = answer.split(before)[1].strip()
            break
    for phrase in _IGNORED:
        answer = answer.replace(phrase, "")
    found = re.search(rf"\b(?:{'|'.join(map(re.escape, letters))})\b", answer)
    return float(found is not None and found[0] == truth.answer)
