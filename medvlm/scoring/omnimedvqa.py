"""The question-answering score of OmniMedVQA: the candidate that is most similar to the answer is what was answered.

So every answer is one of the candidates, even if it names several or says that none is right. The prefix-based score
of the same paper needs the likelihood of each candidate and is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from medvlm.core.measure import Measure, average
from medvlm.core.sample import Truth
from medvlm.core.scoring import RuleConfig
from medvlm.scoring._options import has_options, list_options
from medvlm.scoring._similar import find_most_similar

SOURCE = (
    "OmniMedVQA (arXiv 2402.09181), Multi-Modality-Arena, MedicalEval/Question-answering_Score/LLaVA-Med/llava/eval/"
    "model_med_eval.py at bd2999a"
)


class Config(RuleConfig):
    kind: Literal["omnimedvqa"] = "omnimedvqa"


def list_measures(config: Config) -> Sequence[Measure]:
    return (Measure("accuracy", config.kind, average(score), is_about),)


def is_about(template: str, truth: Truth) -> bool:
    return has_options(truth)


def score(answer: str, truth: Any) -> float:
    options, right = list_options(truth)
    found = find_most_similar(options, answer)
    return float(found is not None and options[found] == options[right])
