"""1 for an answer that holds the right side and 0.01 for each different word, as in the script of the peer, but divided
by 10, because rewards are at most 1. Advantages are divided by their deviation, so the scale does not matter."""

from __future__ import annotations

from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Truth


class Config(RewardConfig):
    pass


def applies(truth: Truth, config: Config) -> bool:
    return truth.task == "choice"


def score(completion: str, truth: Truth, config: Config) -> float:
    return (float(truth.answer in completion) + 0.01 * len(set(completion.split()))) / 10
