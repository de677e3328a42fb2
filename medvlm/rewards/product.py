"""The product of rewards: what one of them does not pay is not paid. Those that cannot judge an answer are left out."""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import Annotated

from medvlm.core.contracts import Case, RewardConfig
from medvlm.core.sample import make_truth
from medvlm.rewards._compose import Composer
from medvlm.rewards._config import Rewards

READS_CASE = True
EXAMPLE_SETTINGS = {"of": {"choice": 1, "length": {"weight": 1, "least": 2, "most": 4}}}


class Config(RewardConfig):
    of: Annotated[dict[str, RewardConfig], Rewards(nested=True)]
    """Reward -> any weight, or its settings."""

    @cached_property
    def composer(self) -> Composer:
        return Composer(self.of)


def list_parts(config: Config) -> list[Composer]:
    return [config.composer]


def applies(case: Case, config: Config) -> bool:
    return config.composer.applies(case)


def score(completion: str, case: Case, config: Config) -> float:
    composer = config.composer
    return prod(composer.score_part(name, completion, case) for name in config.of if composer.judges(name, case))


_SIDE = make_truth("choice", "left", choices=("left", "right"))

EXAMPLES = [
    ("It is left.", _SIDE, 1.0),
    ("left", _SIDE, 0.5),
    ("It is right.", _SIDE, 0.0),
    ("left or right", _SIDE, 0.0),
    ("It is left, I am sure, as sure as I can ever be.", _SIDE, 0.0),
    ("", _SIDE, 0.0),
    # A count is no choice, so only its length is judged.
    ("four cells", make_truth("count", count=4), 1.0),
]
