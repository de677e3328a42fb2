"""An engine for rollouts as a package of somebody else would have it: it draws the same answers for every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from medvlm.rollouts._contract import Answer, Parts, Prompt, RolloutsConfig, Sampling

ANSWERS = [Answer([305, 306, 307], (-1.0, -2.0, -3.0)), Answer([305], (-1.0,))]


class Config(RolloutsConfig):
    kind: Literal["tests.stages.fixed_answers"]


def build(config: Config, parts: Parts) -> Fixed:
    return Fixed()


class Fixed:
    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Answer]]:
        assert sampling.copies == len(ANSWERS)
        return [ANSWERS for _ in prompts]
