"""Rewards for what stands in a tag: the text in `<answer>...</answer>` is judged as if it was all that was said.

An answer without the tag, or with several, earns nothing; what is thought before it is not read."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated

from pydantic import Field

from medvlm.core.contracts import Case, RewardConfig
from medvlm.core.sample import make_truth
from medvlm.rewards._compose import Composer
from medvlm.rewards._config import Rewards

READS_CASE = True
EXAMPLE_SETTINGS = {"pay": {"choice": 1}}


class Config(RewardConfig):
    tag: str = Field("answer", pattern=r"^[A-Za-z][\w-]*$")
    pay: Annotated[dict[str, RewardConfig], Rewards(nested=True)]
    """What the text in the tag earns: the weighted mean of these rewards."""

    @cached_property
    def composer(self) -> Composer:
        return Composer(self.pay)


def list_parts(config: Config) -> list[Composer]:
    return [config.composer]


def applies(case: Case, config: Config) -> bool:
    return config.composer.applies(case)


def score(completion: str, case: Case, config: Config) -> float:
    opened, closed = (len(re.findall(rf"<{mark}{config.tag}>", completion)) for mark in ("", "/"))
    found = re.search(rf"<{config.tag}>(.*)</{config.tag}>", completion, re.DOTALL)
    if not (opened == closed == 1) or found is None:
        return 0.0
    return min(1.0, config.composer.score(found.group(1).strip(), case)[0])


_SIDE = make_truth("choice", "left", choices=("left", "right"))

EXAMPLES = [
    ("<think>It is on the right of the image.</think><answer>left</answer>", _SIDE, 1.0),
    ("<answer>left</answer>", _SIDE, 1.0),
    ("<think>left</think><answer>right</answer>", _SIDE, 0.0),
    # Outside of the tag, in two of them, one that is not closed, all of them.
    ("left", _SIDE, 0.0),
    ("<answer>left</answer><answer>right</answer>", _SIDE, 0.0),
    ("<answer>left", _SIDE, 0.0),
    ("</answer>left<answer>", _SIDE, 0.0),
    ("<answer>left or right</answer>", _SIDE, 0.0),
    ("", _SIDE, 0.0),
]
