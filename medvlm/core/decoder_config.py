"""What decoders (medvlm/decoders/KIND.py) and their losses (medvlm/objectives/heads/KIND.py) must offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import Field, field_validator

from medvlm.core.config import Config, component
from medvlm.core.errors import RecipeError, did_you_mean


class DecoderConfig(Config):
    kind: str
    encoder: str = ""
    """The encoder whose features it reads; needed only where there are several."""
    classes: tuple[str, ...] = Field(min_length=1)
    """What it tells apart, by the names that the card uses."""
    exclusive: bool = True
    """One class at a time (softmax); `false`: any number of them at once, each judged by itself (sigmoid)."""
    answers: str = ""
    """The template of the questions that it answers; by default its own name."""

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            twice = next(name for number, name in enumerate(classes) if name in classes[:number])
            raise ValueError(f"names {twice!r} twice; expected each class once")
        return classes


def find_encoder(name: str, decoder: DecoderConfig, encoders: Mapping[str, Any]) -> str:
    """The encoder that a decoder reads. Raises RecipeError where it names none and there are several, or one that is
    not there."""
    if decoder.encoder in encoders:
        return decoder.encoder
    known = ", ".join(encoders) or "none"
    if decoder.encoder:
        near = did_you_mean(decoder.encoder, encoders)
        raise RecipeError(f"model.decoders.{name}: there is no encoder {decoder.encoder!r}{near} (there are {known})")
    if len(encoders) != 1:
        raise RecipeError(f"model.decoders.{name}: say which `encoder` it reads (there are {known})")
    return next(iter(encoders))


def list_templates(decoders: Mapping[str, DecoderConfig]) -> dict[str, str]:
    """Template of the questions -> the decoder that answers them."""
    return {decoder.answers or name: name for name, decoder in decoders.items()}


@dataclass(frozen=True)
class Offer:
    """What a data card asks under one template, of decoders. classes: those that its truths speak of."""

    task: str
    classes: tuple[str, ...]


def list_answered(reader: Any) -> dict[str, Offer] | None:
    """Template -> what a card asks decoders under it; None where only the archive knows. reader: config of the card's
    reader, whose module may have `list_answered(config)`."""
    module = component("archive.readers", reader.kind)
    return module.list_answered(reader) if hasattr(module, "list_answered") else None


@dataclass(frozen=True)
class DecoderFacts:
    """What is known without building. shape: of the output for one sample, [classes] or [classes, *pixels]."""

    shape: tuple[int, ...]


class DecoderModule(Protocol):
    """config: its Config, a DecoderConfig. OUTPUT: `scores`, [N, classes], or `maps`, [N, classes, *input size]; both
    are logits. Exclusive maps have one class more, the background, in front: label 0 of a mask.

    facts(config, width, grid, input_shape) -> DecoderFacts, where None is `not known` and is not checked; build(config,
    width, grid, input_shape) -> nn.Module with forward(Features) -> logits. Both raise ShapeError for an encoder that
    the decoder cannot read. width, grid: of the encoder's patch tokens. input_shape: of its pixels, [C, H, W] or
    [C, D, H, W]."""


MISSING = -1
"""A label that is not known, and a pixel that nobody marked: it counts for nothing, in no sum and in no weight."""


class HeadLoss(Config):
    kind: str
    weight: float = Field(1.0, gt=0)
    """Factor on it in the sum of the stage's losses."""


class HeadLossModule(Protocol):
    """config: its Config, a HeadLoss. The loss of a step is the sum of add_up() over the sum of weigh(), of all
    micro-batches and ranks. labels: exclusive classes as int64 [N] or [N, *pixels], others as 0 and 1 [N, K] or
    [N, K, *pixels]; MISSING where there is none.

    refuse(exclusive, output) -> why it does not suit a decoder of this OUTPUT, "" where it does. weigh(config, labels,
    exclusive) -> float. add_up(config, logits, labels, exclusive) -> a sum, in float32."""
