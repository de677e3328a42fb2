"""A reward for dry runs that differs from answer to answer and means nothing: with random weights no answer earns
anything, and without a difference nothing would be trained. The recipe of a dry run lists our own package as a plugin
to name it; no other recipe should."""

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
