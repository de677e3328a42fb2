"""1 when the completion is in the form that the question asks for and holds nothing else, right or wrong.

What the form is, the task says. Blanks around the answer are free: tokenizers differ in where they put them.
"""

from __future__ import annotations

from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Truth, make_truth
from medvlm.core.tasks import find_task


class Config(RewardConfig):
    pass


def applies(truth: Truth, config: Config) -> bool:
    return find_task(truth.task).is_formatted is not None


def score(completion: str, truth: Truth, config: Config) -> float:
    is_formatted = find_task(truth.task).is_formatted
    assert is_formatted is not None, truth
    return float(is_formatted(completion.strip(), truth))


_SIDE = make_truth("choice", "left", choices=("left", "right"))
_FOUR = make_truth("count", count=4)
_BOX = make_truth("boxes", boxes=((0, 0, 100, 100),))

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
