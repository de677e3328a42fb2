"""1 when the completion names the right choice and no other."""

from __future__ import annotations

from medvlm.answers.choice import is_right
from medvlm.core.sample import Truth

_SIDE = Truth("choice", "left", choices=("left", "right", "both"))

EXAMPLES = [
    ("left", _SIDE, 1.0),
    ("The lesion is on the left.", _SIDE, 1.0),
    ("right", _SIDE, 0.0),
    ("left or right", _SIDE, 0.0),
    ("", _SIDE, 0.0),
]


def applies(truth: Truth) -> bool:
    return truth.task == "choice"


def score(completion: str, truth: Truth) -> float:
    return float(is_right(completion, truth.answer, truth.choices))
