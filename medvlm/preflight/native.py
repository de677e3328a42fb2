"""How a ready model is planned: with its own processor where its files are here, else with one of its family at the
real sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.core.sample import Medium, Sample
from medvlm.data.dialogue import Turn
from medvlm.data.native import NativeDialogue, NativePrepare, Processor, make_native_prepare
from medvlm.preflight.known import known
from medvlm.preflight.ready import planned
from medvlm.sections import Model

LOOKED_AT = 8
"""Samples whose pictures go through the processor: one takes up to a tenth of a second."""
ASSUMED_PX = 1024
"""Of pictures whose size nothing says, along each side."""
CHARS_PER_TOKEN = 3.5


@dataclass(frozen=True)
class Ready:
    """folder: of the model's config and processor. is_exact: whether the processor is the model's own."""

    folder: Path
    prepare: NativePrepare
    is_exact: bool


def ready(model: Model, place: Path) -> Ready | None:
    """None for a composed model. Raises RecipeError for one of which nothing is known."""
    if not model.pretrained:
        return None
    found = known(model.pretrained)
    is_exact = (
        any((Path(found.folder) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
        if found.folder
        else False
    )
    folder = Path(found.folder) if is_exact else planned(found, place)
    processor = Processor(folder, model.processor)
    prepare = make_native_prepare(processor, model.views, model.boxes.codec, model.boxes.scale)
    return Ready(folder, prepare if is_exact else replace(prepare, dialogue=AboutReady(processor)), is_exact)


class AboutReady(NativeDialogue):
    """Turns of about the right length, with the very placeholders of the processor: its words are not here."""

    def _turn(self, text: str, expansions: tuple[str, ...], answer: str | None) -> Turn:
        shown: Sequence[int] = (
            self.processor.tokenizer("".join(expansions), add_special_tokens=False).input_ids if expansions else []
        )
        word = len(self.processor.tokenizer) - 1  # the special ones come first
        prompt = [word] * 5 + list(shown) + [word] * round(len(text) / CHARS_PER_TOKEN + 5)
        return Turn(prompt, [] if answer is None else [word] * (1 + round(len(answer) / CHARS_PER_TOKEN)))


def pictured(sample: Sample) -> tuple[Sample, Mapping[str, Any]]:
    """The sample with grey ramps for pictures, of the sizes that it has, or is taken to have."""
    media = tuple(m if m.size else replace(m, size=_assumed(m)) for m in sample.media)
    return replace(sample, media=media), {m.member: np.resize(np.arange(256, dtype=np.uint8), m.size) for m in media}


def _assumed(medium: Medium) -> tuple[int, ...]:
    return (32, 512, 512) if is_deep(medium.kind) else (ASSUMED_PX, ASSUMED_PX)


def is_deep(kind: str) -> bool:
    """Whether media of this kind are volumes or videos, by their name."""
    return any(word in kind for word in ("volume", "video", "scan"))
