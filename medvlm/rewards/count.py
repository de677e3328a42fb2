"""1 for the right number, falling in a straight line to 0 where it is off by the whole of it.

max(0, 1 - |found - n| / max(1, n)): a line, and not a bell such as exp(-|found - n|), because the expected
reward is then largest at a median of what the model believes, as it is for the mean absolute error that the
evaluation reports. A bell rewards the likeliest single number and is flat where a model that is far off starts.
"""

from __future__ import annotations

from medvlm.answers.count import parse
from medvlm.core.sample import Truth

_FOUR = Truth("count", "4", count=4, label="WBC")
_ZERO = Truth("count", "0", count=0, label="WBC")

EXAMPLES = [
    ("4", _FOUR, 1.0),
    ("There are four.", _FOUR, 1.0),
    ("3", _FOUR, 0.75),
    ("5", _FOUR, 0.75),
    ("8", _FOUR, 0.0),
    ("100", _FOUR, 0.0),
    ("3 or 4", _FOUR, 0.0),
    ("many", _FOUR, 0.0),
    ("none", _ZERO, 1.0),
    ("1", _ZERO, 0.0),
]


def applies(truth: Truth) -> bool:
    return truth.task == "count" and truth.count is not None


def score(completion: str, truth: Truth) -> float:
    assert truth.count is not None, truth
    found = parse(completion)
    return 0.0 if found is None else max(0.0, 1 - abs(found - truth.count) / max(1, truth.count))
