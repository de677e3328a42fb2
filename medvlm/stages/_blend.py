"""Mixtures of two samples of a step: mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899).

All samples of a step have the same share, as in timm, and the other sample is one of the same step. Both follow from
the position in the stream, so they are the same on any number of ranks and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, model_validator

from medvlm.core.config import Config
from medvlm.core.errors import DataError
from medvlm.data.order import draw

if TYPE_CHECKING:
    import numpy as np


class Blend(Config):
    mixup: float = Field(0.0, ge=0)
    """Both parameters of the beta distribution of the share of a sample; the rest is the other sample, in each pixel.
    0.2 is usual; 0 is off."""
    cutmix: float = Field(0.0, ge=0)
    """The same for a rectangle (or block) that is cut from the other sample; 1 is usual. With both, each step takes one
    of them by a coin."""

    @model_validator(mode="after")
    def _does_something(self) -> Blend:
        if not self.mixup and not self.cutmix:
            raise ValueError("expected `mixup` or `cutmix` above 0")
        return self


@dataclass(frozen=True)
class Mixture:
    """Of a step. share: of a sample itself. shift: how far on the other sample is within the step. box: of the other
    sample, (start, side) along each axis as shares of it, for CutMix."""

    share: float
    shift: int
    box: np.ndarray | None = None


def draw_mixture(blend: Blend, batch: int, *key: int | str) -> Mixture:
    """key: of the step."""
    rng = draw(*key, "blend")
    coin, shift, places = rng.random(), int(rng.integers(1, batch)) if batch > 1 else 0, rng.random(3)
    cuts = bool(blend.cutmix) and (not blend.mixup or coin < 0.5)
    alpha = blend.cutmix if cuts else blend.mixup
    share = float(rng.beta(alpha, alpha))
    return Mixture(share, shift, places if cuts else None)


def blend_pixels(own: torch.Tensor, other: torch.Tensor, mixture: Mixture) -> torch.Tensor:
    """own, other: [C, *size], of one size."""
    if mixture.box is None:
        return mixture.share * own + (1 - mixture.share) * other
    axes = own.ndim - 1
    side = (1 - mixture.share) ** (1 / axes)
    found = own.clone()
    at: list[Any] = [slice(None)]
    for length, place in zip(own.shape[1:], mixture.box, strict=False):
        count = round(side * length)
        start = int(place * (length - count + 1))
        at.append(slice(start, start + count))
    found[tuple(at)] = other[tuple(at)]
    return found


def blend_sample(own: Any, position: int, batch: int, mixture: Mixture, prepare: Callable[[int], Any]) -> Any:
    """A LabelledSample with the pixels of two, and the labels of both. prepare: the sample at a position. A sample
    whose partner is damaged, or of another encoder, is mixed with itself."""
    first = position // batch * batch
    partner = first + (position - first + mixture.shift) % batch
    try:
        other = prepare(partner) if partner != position else own
    except DataError:
        other = own
    if other.encoder != own.encoder or not other.labels:
        other = own
    return replace(
        own, pixels=blend_pixels(own.pixels, other.pixels, mixture), others=other.labels, share=mixture.share
    )
