"""What decoders (medvlm/decoders/KIND.py) and their losses (medvlm/objectives/heads/KIND.py) must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pydantic import Field, field_validator

from medvlm.core.config import Config


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
