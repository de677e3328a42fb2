"""A reward as in a third-party package that does not look at the answer."""

from __future__ import annotations

from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Truth


class Config(RewardConfig):
    pass


def applies(truth: Truth, config: Config) -> bool:
    return True


def score(completion: str, truth: Truth, config: Config) -> float:
    return 0.25 + len(truth.answer) % 3 / 4


EXAMPLES: list[tuple[str, Truth, float]] = []
