"""Stand-ins for what a plan does not read: files, pixels, and tokenizers that are not on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from medvlm.core.config import component
from medvlm.core.contracts import Preprocess
from medvlm.core.decoder_config import DecoderConfig, find_form
from medvlm.core.geometry import Canvas, resize
from medvlm.core.sample import Medium, Sample
from medvlm.core.turns import Message
from medvlm.data.dialogue import Turn
from medvlm.data.processor import Processor

CHARS_PER_TOKEN = 3.5
TEMPLATE_TOKENS = 5
"""Tokens that a chat template adds before and after a message."""
ASSUMED_PX = 1024
"""Assumed height and width of pictures of unknown size."""
ASSUMED_VOLUME = (32, 512, 512)


class NoFiles(dict[str, bytes]):
    """The files of a sample whose pixels are not read."""

    def __missing__(self, key: str) -> bytes:
        return b""


@dataclass(frozen=True)
class BlankTransform:
    """A preprocessing that returns meta tensors of the right shape, and the canvas of a medium of known size."""

    preprocess: Preprocess

    def __call__(self, stored: Any, member: str, medium: Medium) -> tuple[torch.Tensor, Canvas | None]:
        shape = self.preprocess.shape if self.preprocess.tiles else (self.preprocess.channels, *self.preprocess.size)
        is_whole = len(medium.size) == len(self.preprocess.size)
        canvas = resize(medium.size, self.preprocess.size) if is_whole else None
        return torch.empty(shape, device="meta"), canvas


def make_blank_labels(decoder: DecoderConfig, size: tuple[int, ...]) -> np.ndarray:
    """Labels of the right shape, all zero. size: of the pixels that the decoder's encoder takes."""
    module = component("decoders", decoder.kind)
    if hasattr(module, "make_blank_label"):
        blank: np.ndarray = module.make_blank_label(decoder)
        return blank
    is_mask = find_form(decoder) == "maps"
    classes = () if decoder.exclusive else (len(decoder.classes),)
    return np.zeros((*classes, *(size if is_mask else ())), np.int64)


@dataclass(frozen=True)
class EstimatedDialogue:
    """Turns of about the right length. image_id: id of the image token."""

    image_id: int

    def converse(self, messages: Sequence[Message], pictures: Sequence[int]) -> Turn:
        return _estimate(messages, [[self.image_id] * count for count in pictures], 4)


@dataclass(frozen=True)
class EstimatedNativeDialogue:
    """Turns of about the right length, with the placeholders that the processor of a pretrained model writes."""

    processor: Processor

    def converse(self, messages: Sequence[Message], pictures: Sequence[str]) -> Turn:
        tokenizer = self.processor.tokenizer
        images = [tokenizer(text, add_special_tokens=False).input_ids for text in pictures]
        return _estimate(messages, images, len(tokenizer) - 1)  # the special tokens come first


def _estimate(messages: Sequence[Message], pictures: Sequence[list[int]], word: int) -> Turn:
    """pictures: the ids of each. word: the id of every other token."""
    waiting, around = iter(pictures), [word] * TEMPLATE_TOKENS
    ids, spans = list[int](), []
    for message in messages:
        start = len(ids)
        if message.role == "assistant":
            ids += [word, *_fill(message.text, word)]
            spans.append((start, len(ids)))
            continue
        ids += around
        for part in message.parts:
            ids += next(waiting) if part is None else _fill(part, word)
        ids += around if message.role == "user" else []
    if messages[-1].role != "assistant":
        return Turn(ids, [], tuple(spans))
    start = spans.pop()[0]
    return Turn(ids[:start], ids[start:], tuple(spans))


def _fill(text: str, word: int) -> list[int]:
    return [word] * round(len(text) / CHARS_PER_TOKEN)


@dataclass(frozen=True)
class EstimatedTokenizer:
    """Texts of about the right length for a text tower."""

    tokenizer: Any

    def __call__(self, text: str) -> Any:
        return SimpleNamespace(input_ids=[4] * (2 + round(len(text) / CHARS_PER_TOKEN)))

    @property
    def pad_token_id(self) -> int:
        pad: int = self.tokenizer.pad_token_id
        return pad


def draw_ramps(sample: Sample) -> tuple[Sample, Mapping[str, Any]]:
    """The sample with grey ramps instead of its pictures, in their actual or assumed sizes."""
    media = tuple(m if m.size else replace(m, size=_assume_size(m)) for m in sample.media)
    return replace(sample, media=media), {m.member: np.resize(np.arange(256, dtype=np.uint8), m.size) for m in media}


def is_deep(kind: str) -> bool:
    """Whether media of this kind are volumes or videos, by their name."""
    return any(word in kind for word in ("volume", "video", "scan"))


def _assume_size(medium: Medium) -> tuple[int, ...]:
    return ASSUMED_VOLUME if is_deep(medium.kind) else (ASSUMED_PX, ASSUMED_PX)
