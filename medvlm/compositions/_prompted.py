"""Masks by decoders that take prompts: of the objects of a question, or of those that a user shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medvlm.core.ask import Ask, Files
from medvlm.core.decoder_config import PromptedConfig
from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.mask_prompts import Prompts
from medvlm.core.sample import Sample
from medvlm.core.tasks import find_task
from medvlm.data.composed import ComposedPrepare
from medvlm.data.order import draw
from medvlm.data.prompts import Prompt, Tokenize, draw_prompt, say, stack_prompts

TOGETHER, PIXELS = 32, 1 << 24
"""Objects that are marked at a time, and pixels of all their masks."""
Mark = Callable[[torch.Tensor, torch.Tensor, Prompts], torch.Tensor]
"""(pixels [N, ...], for each prompt the number of its medium, prompts) -> probabilities [S, *size]."""


def draw_asked(prepare: ComposedPrepare, ask: Ask, decoder: PromptedConfig, tokenize: Tokenize | None) -> list[Prompt]:
    """What shows the objects of a question, one prompt each, the same whenever it is asked. tokenize: None where texts
    are not read."""
    sample, files, question = ask.prompt_of or (ask.sample, ask.files, ask.question)
    form = decoder.prompts[0]
    objects = prepare.list_objects(sample, question, files, decoder, form)
    rng = draw("prompts", question.template, sample.key)
    drawn = []
    for number, labels in objects:
        prompt = draw_prompt(labels == 1, number, decoder, rng, form)
        if tokenize is not None:
            kind = sample.media[0].kind
            prompt = say(prompt, decoder, question.text, kind, tokenize, is_marked=labels == 1)
        drawn.append(prompt)
    return drawn


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
    prompts = draw_asked(prepare, ask, decoder, None)
    filled = [prompt.fill(size) for prompt in prompts]
    if any(mask is None for mask in filled):
        return None
    return answer(ask, decoder, prompts, [mask for mask in filled if mask is not None], size)


def mark_asked(
    prepare: ComposedPrepare,
    asks: Sequence[tuple[Ask, torch.Tensor]],
    decoder: PromptedConfig,
    mark: Mark,
    tokenize: Tokenize | None,
) -> list[Any]:
    """asks: each with the pixels that the decoder's encoder is given."""
    prompts = [draw_asked(prepare, ask, decoder, tokenize) for ask, _ in asks]
    flat = [(number, prompt) for number, own in enumerate(prompts) for prompt in own]
    masks: list[np.ndarray] = []
    together = _count_together(asks[0][1].shape[1:]) if asks else 1
    for at in range(0, len(flat), together):
        piece = flat[at : at + together]
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


def _count_together(size: Sequence[int]) -> int:
    return max(1, min(TOGETHER, PIXELS // math.prod(size)))


def make_prompted(
    prepare: ComposedPrepare, sample: Sample, files: Files, prompts: Sequence[Prompt], classes: int, mark: Mark
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Windows of medium 0 [N, ...] -> the probabilities of each class [N, classes, *size], all asked with the same
    prompts. It raises DataError for a window that is not the whole medium, if a prompt shows a place of it."""
    is_placed = any(prompt.box or prompt.points or prompt.mask is not None for prompt in prompts)
    seen = prepare.see(sample, files) if is_placed else None
    if seen is not None and seen.canvas is not None:
        prompts = place_prompts(prompts, seen.canvas)

    def predict(window_NC: torch.Tensor) -> torch.Tensor:
        if seen is not None and (seen.canvas is None or not torch.equal(window_NC, seen.media[0][1][None])):
            raise DataError(f"{sample.media[0].member}: a prompt needs an image that the model sees as a whole")
        count = len(window_NC)
        rows, asked = torch.arange(count).repeat_interleave(len(prompts)), stack_prompts([*prompts] * count)
        together = _count_together(window_NC.shape[2:])
        pieces = [range(len(rows))[at : at + together] for at in range(0, len(rows), together)]
        masks_S = torch.cat([mark(window_NC, rows[[*piece]], asked.take(piece)) for piece in pieces])
        masks_NP = masks_S.unflatten(0, (count, len(prompts)))
        planes_NK = masks_NP.new_zeros(count, classes, *masks_NP.shape[2:])
        for place, prompt in enumerate(prompts):
            planes_NK[:, prompt.number] = torch.maximum(planes_NK[:, prompt.number], masks_NP[:, place])
        return planes_NK

    return predict
