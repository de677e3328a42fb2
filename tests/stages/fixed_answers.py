"""A rollout engine as in a third-party package: it returns the same answers to every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from medvlm.rollouts._contract import Answer, Parts, Prompt, RolloutsConfig, SamplingParams

ANSWERS = [Answer([305, 306, 307], (-1.0, -2.0, -3.0)), Answer([305], (-1.0,))]


class Config(RolloutsConfig):
    kind: Literal["tests.stages.fixed_answers"]


def build(config: Config, parts: Parts) -> Fixed:
    return Fixed()


class Fixed:
    def draw(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Answer]]:
        assert sampling.copies == len(ANSWERS)
        return [ANSWERS for _ in prompts]
