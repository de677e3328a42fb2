"""Which of the reference's steps an answer says, in their order, and how much else it says: F1 of steps and sentences.

Recall is the longest run of steps in the order of the reference, over their number; precision the share of sentences
that say a step. The last sentence is free, since it states the answer. How a sentence says a step: tasks/_steps.
"""

from __future__ import annotations

from medvlm.core.contracts import Case, RewardConfig
from medvlm.core.sample import make_truth
from medvlm.tasks._steps import find_f1

READS_CASE = True
LONGEST = 10_000
"""Characters. A longer text earns nothing: reading it costs time."""


class Config(RewardConfig):
    pass


def applies(case: Case, config: Config) -> bool:
    return bool(case.steps)


def score(completion: str, case: Case, config: Config) -> float:
    if len(completion) > LONGEST:
        return 0.0
    return find_f1(completion, case.steps, free=1)


_STEPS = {
    "modality": "This is a frontal chest radiograph.",
    "finding": "There is a dense opacity in the right lower lobe.",
    "meaning": "The opacity with air bronchograms suggests pneumonia.",
}
_CASE = Case(make_truth("choice", "yes", choices=("yes", "no")), _STEPS)
_SAID = (
    "Frontal chest radiograph. A dense opacity lies in the right lower lobe. The opacity with air bronchograms suggests"
)

EXAMPLES = [
    (f"{_SAID} pneumonia. Yes.", _CASE, 1.0),
    ("Frontal chest radiograph. Yes.", _CASE, 0.5),
    ("Yes.", _CASE, 0.0),
    # The wrong order, the wrong side, a denial.
    (f"The opacity with air bronchograms suggests pneumonia. {' '.join(list(_STEPS.values())[:2])} Yes.", _CASE, 0.8),
    ("There is a dense opacity in the left lower lobe. Yes.", _CASE, 0.0),
    ("There is no dense opacity in the right lower lobe. Yes.", _CASE, 0.0),
    # One step again and again, steps among many other sentences, words without sentences.
    ("Frontal chest radiograph. " * 20, _CASE, 0.5),
    ("modality finding meaning", _CASE, 0.0),
    ("", _CASE, 0.0),
]
