"""A reward with a setting of its own: 1 for an angle that is close enough."""

from __future__ import annotations

from pydantic import Field

from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Truth
from mylab import angle


class Config(RewardConfig):
    within: float = Field(10, gt=0)
    """Degrees that an answer may be off."""


def applies(truth: Truth, config: Config) -> bool:
    return isinstance(truth, angle.Truth)


def score(completion: str, truth: Truth, config: Config) -> float:
    assert isinstance(truth, angle.Truth)
    return float(angle.miss(completion, truth) <= config.within)


EXAMPLES = [
    ("75", angle.Truth(degrees=75), 1.0),
    ("83", angle.Truth(degrees=75), 1.0),
    ("90", angle.Truth(degrees=75), 0.0),
    ("75 or 90", angle.Truth(degrees=75), 0.0),
]
