"""1 when the completion is in the form that the question asks for and holds nothing else, right or wrong.

A choice is one of the choices as written, a count is digits alone, boxes are as one of answers/codecs writes them.
Blanks around the answer, and within boxes, are free: tokenizers differ in where they put them.
"""

from __future__ import annotations

import re

from medvlm.answers import boxes
from medvlm.core.sample import Truth

_SIDE = Truth("choice", "left", choices=("left", "right"))
_FOUR = Truth("count", "4", count=4)
_BOX = Truth("boxes", "{boxes}", boxes=((0, 0, 100, 100),))

EXAMPLES = [
    ("left", _SIDE, 1.0),
    (" right\n", _SIDE, 1.0),
    ("left.", _SIDE, 0.0),
    ("on the left", _SIDE, 0.0),
    ("17", _FOUR, 1.0),
    ("four", _FOUR, 0.0),
    ("4 cells", _FOUR, 0.0),
    ("[1, 2, 3, 4], [5,6,7,8]", _BOX, 1.0),
    ("none", _BOX, 1.0),
    ("[1, 2, 3, 4] is where it is", _BOX, 0.0),
    ("[3, 4, 1, 2]", _BOX, 0.0),
    ("[1.5, 2, 3, 4]", _BOX, 0.0),
]


def applies(truth: Truth) -> bool:
    return truth.task in ("choice", "count", "boxes")


def score(completion: str, truth: Truth) -> float:
    text = completion.strip()
    if truth.task == "choice":
        return float(text in truth.choices)
    if truth.task == "count":
        return float(re.fullmatch(r"0|[1-9][0-9]{0,8}", text) is not None)
    return float(boxes.is_written(text, truth.label))
