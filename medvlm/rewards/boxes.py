"""Overlap of the found boxes with the true ones, so that neither many boxes nor few pay.

Sum of the IoU of the best one-to-one matching / max(number found, number true). Boxes of the truth are in the
coordinates of answers. Where there is nothing to find, only saying so scores.
"""

from __future__ import annotations

from medvlm.answers.boxes import parse
from medvlm.answers.matching import match
from medvlm.core.sample import Truth

_TWO = Truth("boxes", "{boxes}", boxes=((0, 0, 100, 100), (500, 500, 700, 600)), label="RBC")
_NONE = Truth("boxes", "{boxes}", label="RBC")

EXAMPLES = [
    ("[0, 0, 100, 100], [500, 500, 700, 600]", _TWO, 1.0),
    ("[500, 500, 700, 600], [0, 0, 100, 100]", _TWO, 1.0),
    ("[0, 0, 100, 50], [500, 500, 700, 600]", _TWO, 0.75),
    ("[0, 0, 100, 100]", _TWO, 0.5),
    ("[0, 0, 100, 100], [0, 0, 100, 100], [0, 0, 100, 100], [500, 500, 700, 600]", _TWO, 0.5),
    ("[200, 200, 300, 300]", _TWO, 0.0),
    ("[100, 100, 0, 0]", _TWO, 0.0),
    ("none", _TWO, 0.0),
    ("none", _NONE, 1.0),
    ("[0, 0, 100, 100]", _NONE, 0.0),
    ("I cannot tell", _NONE, 0.0),
]


def applies(truth: Truth) -> bool:
    return truth.task == "boxes"


def score(completion: str, truth: Truth) -> float:
    found = parse(completion)
    if found is None:
        return 0.0
    if not found or not truth.boxes:
        return float(len(found) == len(truth.boxes))
    # A sum of perfect overlaps may round to a hair above their number.
    return min(1.0, sum(overlap for _, _, overlap in match(found, truth.boxes)) / max(len(found), len(truth.boxes)))
