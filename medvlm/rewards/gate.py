"""Rewards that are paid only where others are earned: first the form, then what it holds."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

from pydantic import Field

from medvlm.core.contracts import Case, RewardConfig
from medvlm.core.sample import make_truth
from medvlm.rewards._compose import Composer
from medvlm.rewards._config import Rewards

READS_CASE = True
EXAMPLE_SETTINGS = {"when": {"format": 1}, "pay": {"choice": 1}}


class Config(RewardConfig):
    when: Annotated[dict[str, RewardConfig], Rewards(nested=True)]
    """The condition: the weighted mean of these rewards. It holds for an answer that none of them can judge."""
    least: float = Field(1.0, gt=0, le=1)
    """The condition holds from this mean on."""
    pay: Annotated[dict[str, RewardConfig], Rewards(nested=True)]
    """What is paid then: the weighted mean of these rewards. Otherwise 0."""

    @cached_property
    def condition(self) -> Composer:
        return Composer(self.when)

    @cached_property
    def paid(self) -> Composer:
        return Composer(self.pay)


def list_parts(config: Config) -> list[Composer]:
    return [config.condition, config.paid]


def applies(case: Case, config: Config) -> bool:
    return config.paid.applies(case)


def score(completion: str, case: Case, config: Config) -> float:
    when = config.condition
    if when.applies(case) and when.score(completion, case)[0] < config.least - 1e-9:
        return 0.0
    return min(1.0, config.paid.score(completion, case)[0])


_SIDE = make_truth("choice", "left", choices=("left", "right"))

EXAMPLES = [
    ("left", _SIDE, 1.0),
    ("right", _SIDE, 0.0),
    # Right, but not in the form; and several answers.
    ("It is left.", _SIDE, 0.0),
    ("left, right", _SIDE, 0.0),
    ("", _SIDE, 0.0),
]
