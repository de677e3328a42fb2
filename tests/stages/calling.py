"""A rollout engine as in a third-party package: it draws with the model in training, but begins most answers with a
call of the zoom, which an untrained model never writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from medvlm.core.config import component
from medvlm.rollouts._contract import Answer, Parts, Prompt, RolloutsConfig, SamplingParams

FIRST = ("", "zoom [100, 100, 600, 600]", "zoom there", "look\nzoom [0, 0, 300, 900]")
"""By copy; "" for what the model says. The third one is refused."""


class Config(RolloutsConfig):
    kind: Literal["tests.stages.calling"]


def build(config: Config, parts: Parts) -> Calling:
    return Calling(parts)


class Calling:
    def __init__(self, parts: Parts):
        local = component("rollouts", "local")
        self.tokenizer, self.local = parts.tokenizer, local.build(local.Config(kind="local"), parts)

    def draw(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Answer]]:
        drawn: list[list[Answer]] = self.local.draw(prompts, sampling)
        calls = [self._write(FIRST[copy % len(FIRST)]) for copy in range(sampling.copies)]
        return [
            [Answer(call) if call and not prompt.reply else own for call, own in zip(calls, group, strict=True)]
            for prompt, group in zip(prompts, drawn, strict=True)
        ]

    def _write(self, call: str) -> list[int]:
        return [*self.tokenizer(call, add_special_tokens=False).input_ids, self.tokenizer.eos_token_id] if call else []
