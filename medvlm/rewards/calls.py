"""Whether an answer was preceded by a call of a tool that the tool could follow. Needs `environment`.

Source: ViTAR (JLINEkai/ViTAR at 1448fb2), which adds 0.2 for a valid mark to 1 for the right answer. What is marked
does not matter here: boxes are learned through the answers that they lead to."""

from __future__ import annotations

from medvlm.core.contracts import Case, RewardConfig
from medvlm.core.sample import make_truth

READS_CASE = True


class Config(RewardConfig):
    pass


def applies(case: Case, config: Config) -> bool:
    return case.calls is not None


def score(completion: str, case: Case, config: Config) -> float:
    """1 from one call on: more of them do not pay more."""
    assert case.calls is not None
    return float(case.calls > 0)


_SIDE = make_truth("choice", "left", choices=("left", "right"))

EXAMPLES = [
    ("left", Case(_SIDE, calls=1), 1.0),
    ("right", Case(_SIDE, calls=1), 1.0),
    ("left", Case(_SIDE, calls=5), 1.0),
    # A call that is only said, and one that the tool refused.
    ("mark [1, 2, 30, 40]", Case(_SIDE, calls=0), 0.0),
    ("left", Case(_SIDE, calls=0), 0.0),
]
