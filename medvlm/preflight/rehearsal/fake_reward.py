"""A dummy reward for dry runs. It varies between answers, so that GRPO has a gradient: with random weights, real
rewards would be zero for all answers. The recipe of a dry run lists medvlm as a plugin to use it; no other recipe
should."""

from __future__ import annotations

import zlib

from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Truth, make_truth


class Config(RewardConfig):
    pass


def applies(truth: Truth, config: Config) -> bool:
    return True


def score(completion: str, truth: Truth, config: Config) -> float:
    return zlib.crc32(completion.encode()) % 1000 / 1000


EXAMPLES = [
    ("left", make_truth("choice", "left", choices=("left", "right")), 0.8),
    ("", make_truth("open", "none"), 0.0),
]
