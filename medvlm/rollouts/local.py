"""Generates answers with the model in training itself, without a copy.

Random numbers depend on the position of a prompt in the stream, not on the rank or the batch that it is in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import getitem
from typing import Literal

from medvlm.data.order import draw
from medvlm.models.generate import find_end_ids, generate
from medvlm.models.parts import evaluating, joining
from medvlm.rollouts._contract import Answer, Parts, Prompt, RolloutsConfig, SamplingParams


class Config(RolloutsConfig):
    kind: Literal["local"]


def build(config: Config, parts: Parts) -> Local:
    return Local(parts)


class Local:
    def __init__(self, parts: Parts):
        self.parts = parts

    def draw(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Answer]]:
        parts, shape = self.parts, (sampling.max_new_tokens, sampling.copies)
        uniform = [draw(parts.seed, parts.stage, "answers", *_name(prompt)).random(shape) for prompt in prompts]
        with evaluating(parts.model), parts.engine.gather_weights(parts.model), joining(parts.model):
            if not prompts:
                return []
            open_ends = [prompt.add_answers([]) for prompt in prompts]
            worth: list[list[float]] | None = [] if sampling.for_check else None
            batch = parts.prepare.collate(open_ends, parts.tokenizer.pad_token_id, pack=False)
            drawn = generate(
                parts.model,
                batch.to(parts.engine.device),
                max_new_tokens=sampling.max_new_tokens,
                end_ids=find_end_ids(parts.model, parts.tokenizer),
                copies=sampling.copies,
                temperature=sampling.temperature,
                draws=[partial(getitem, numbers) for numbers in uniform],
                worth=worth,
            )
        checked = [tuple(values) for values in worth] if worth else [None] * len(drawn)
        answers = [Answer(ids, checked=values) for ids, values in zip(drawn, checked, strict=True)]
        return [answers[i * sampling.copies : (i + 1) * sampling.copies] for i in range(len(prompts))]


def _name(prompt: Prompt) -> tuple[int, ...]:
    if prompt.reply:
        return prompt.position, prompt.attempt, prompt.reply, prompt.copy
    return (prompt.position, prompt.attempt) if prompt.attempt else (prompt.position,)
