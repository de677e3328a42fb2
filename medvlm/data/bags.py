"""The media of a sample that a decoder reads together, such as the studies of a patient (a bag)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from medvlm.core.decoder_config import spread
from medvlm.core.sample import Medium, Sample

if TYPE_CHECKING:
    import numpy as np


def choose_media(
    sample: Sample, routes: Mapping[str, str], most: int, rng: np.random.Generator | None = None
) -> tuple[Medium, ...]:
    """The media of a sample that are read, in their order: those of the encoder of the first one, at most `most`. Of
    more, the first one and others that `rng` draws; without it, some at equal distances from the first to the last.

    routes: kind of medium -> encoder. Media of kinds that no encoder serves are left out, if the first is served."""
    media = [medium for medium in sample.media if routes.get(medium.kind) == routes.get(sample.media[0].kind)]
    if len(media) <= most:
        return tuple(media)
    if rng is not None:
        return tuple(media[n] for n in (0, *sorted(1 + rng.permutation(len(media) - 1)[: most - 1])))
    return tuple(media[n] for n in spread(len(media), most))
