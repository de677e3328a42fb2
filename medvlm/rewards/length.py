"""Whether an answer is neither too short nor too long: 1 between two numbers of words, and less the further it is from
them.

Without the lower bound, answers shrink until nothing is left that could be wrong. A sequence of three words that stands
there again counts once, so that repeating does not fill up an answer. As in NV-Reason-CT, a band and no slope."""

from __future__ import annotations

from pydantic import Field, model_validator

from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Truth, make_truth

EXAMPLE_SETTINGS = {"least": 4, "most": 8}


class Config(RewardConfig):
    least: int = Field(gt=0)
    """Words. Below, the reward falls evenly to 0 for an empty answer."""
    most: int = Field(gt=0)
    """Words. Above, the reward falls evenly to 0 for one with twice as many."""

    @model_validator(mode="after")
    def _check_order(self) -> Config:
        if self.least > self.most:
            raise ValueError(f"least is {self.least} and most is {self.most}: no answer is in between")
        return self


def applies(truth: Truth, config: Config) -> bool:
    return True


def score(completion: str, truth: Truth, config: Config) -> float:
    words = completion.casefold().split()
    own = min(len(words), 2) + len({tuple(words[at : at + 3]) for at in range(len(words) - 2)})
    long_enough = min(1.0, own / config.least)
    short_enough = min(1.0, max(0.0, 2 - len(words) / config.most))
    return min(long_enough, short_enough)


_SIDE = make_truth("choice", "left", choices=("left", "right"))

EXAMPLES = [
    ("The opacity is on the left.", _SIDE, 1.0),
    ("The opacity is left.", _SIDE, 1.0),
    ("It is left.", _SIDE, 0.75),
    ("left", _SIDE, 0.25),
    ("", _SIDE, 0.0),
    ("a b c d e f g h i j k l", _SIDE, 0.5),
    ("a b c d e f g h i j k l m n o p", _SIDE, 0.0),
    # A word again and again, and a long text.
    ("left left left left left left", _SIDE, 0.75),
    ("left " * 500, _SIDE, 0.0),
]
