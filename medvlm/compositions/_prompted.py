"""Masks by decoders that take prompts: of the objects of a question, or of those that a user shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medvlm.core.ask import Ask
from medvlm.core.decoder_config import PromptedConfig
from medvlm.core.geometry import Canvas
from medvlm.core.mask_prompts import Prompts
from medvlm.core.tasks import find_task
from medvlm.data.composed import ComposedPrepare
from medvlm.data.order import draw
from medvlm.data.prompts import Prompt, draw_prompt, stack_prompts

TOGETHER = 32
"""Objects that are marked at a time."""
Mark = Callable[[torch.Tensor, torch.Tensor, Prompts], torch.Tensor]
"""(pixels [N, ...], for each prompt the number of its medium, prompts) -> probabilities [S, *size]."""


def draw_asked(prepare: ComposedPrepare, ask: Ask, decoder: PromptedConfig) -> list[Prompt]:
    """What shows the objects of a question, one prompt each, the same whenever it is asked."""
    sample, files, question = ask.prompt_of or (ask.sample, ask.files, ask.question)
    form = decoder.prompts[0]
    objects = prepare.list_objects(sample, question, files, decoder, form == "class")
    rng = draw("prompts", question.template, sample.key)
    return [draw_prompt(labels == 1, number, decoder, rng, form) for number, labels in objects]


def answer(
    ask: Ask, decoder: PromptedConfig, prompts: Sequence[Prompt], masks_S: Sequence[np.ndarray], size: Any
) -> Any:
    """The answer of the task of a question: a pixel is of a class with the highest probability of its objects. size: of
    the pixels of the decoder."""
    planes = np.zeros((len(decoder.classes), *size), np.float32)
    for prompt, mask in zip(prompts, masks_S, strict=True):
        planes[prompt.number] = np.maximum(planes[prompt.number], mask)
    decode = find_task(ask.question.truth.task).decode
    assert decode is not None, ask.question.truth.task
    return decode(planes, ask.question.truth, decoder.classes, False)


def fill_prompts(prepare: ComposedPrepare, ask: Ask, decoder: PromptedConfig, size: Sequence[int]) -> Any:
    """The answer of one who marks all of a prompt; None if no prompt marks anything by itself."""
    prompts = draw_asked(prepare, ask, decoder)
    filled = [prompt.fill(size) for prompt in prompts]
    if any(mask is None for mask in filled):
        return None
    return answer(ask, decoder, prompts, [mask for mask in filled if mask is not None], size)


def mark_asked(
    prepare: ComposedPrepare, asks: Sequence[tuple[Ask, torch.Tensor]], decoder: PromptedConfig, mark: Mark
) -> list[Any]:
    """asks: each with the pixels that the decoder's encoder is given."""
    prompts = [draw_asked(prepare, ask, decoder) for ask, _ in asks]
    flat = [(number, prompt) for number, own in enumerate(prompts) for prompt in own]
    masks: list[np.ndarray] = []
    for at in range(0, len(flat), TOGETHER):
        piece = flat[at : at + TOGETHER]
        seen = list(dict.fromkeys(number for number, _ in piece))
        rows = torch.tensor([seen.index(number) for number, _ in piece])
        pixels = torch.stack([asks[number][1] for number in seen])
        masks += list(mark(pixels, rows, stack_prompts([prompt for _, prompt in piece])).numpy())
    left = iter(masks)
    return [
        answer(ask, decoder, own, [next(left) for _ in own], pixels.shape[1:])
        for (ask, pixels), own in zip(asks, prompts, strict=True)
    ]


def place_prompts(shown: Sequence[Prompt], canvas: Canvas) -> list[Prompt]:
    """Prompts on the stored pixels of an image, on the canvas that the model sees."""
    placed = []
    for prompt in shown:
        box = None if prompt.box is None else canvas.to_canvas(prompt.box)
        points = tuple(canvas.to_canvas((x, y, x, y))[:2] for x, y in prompt.points)
        placed.append(replace(prompt, box=box, points=points))
    return placed
