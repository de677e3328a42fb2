"""Mixtures of two samples of a step: mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899).

All samples of a step have the same share, as in timm, and the other sample is one of the same step. Both follow from
the position in the stream, so they are the same on any number of ranks and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, model_validator

from medvlm.core.config import Config
from medvlm.core.decoder_config import MISSING
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
    found, at = own.clone(), find_box(own.shape[1:], mixture)
    found[at] = other[at]
    return found


def cut_masks(own: Sequence[torch.Tensor], others: Sequence[torch.Tensor], mixture: Mixture, axes: int) -> list[Any]:
    """Masks of which the box is the other sample's, or of nobody's knowledge if that has none. own, others: of the
    questions of a decoder, int64 [*size] or [K, *size] with `axes` axes of size."""
    found = [mask.clone() for mask in own]
    for mask in found:
        at = find_box(mask.shape[-axes:], mixture)
        mask[at] = others[0][at] if others else MISSING
    return found


def find_box(size: Sequence[int], mixture: Mixture) -> tuple[Any, ...]:
    """Where the other sample is, as an index of the last axes."""
    assert mixture.box is not None
    side = (1 - mixture.share) ** (1 / len(size))
    at: list[Any] = [...]
    for length, place in zip(size, mixture.box, strict=False):
        count = round(side * length)
        start = int(place * (length - count + 1))
        at.append(slice(start, start + count))
    return tuple(at)


def blend_sample(
    own: Any, position: int, batch: int, mixture: Mixture, prepare: Callable[[int], Any], masks: Sequence[str] = ()
) -> Any:
    """A LabelledSample with the pixels of two, and the labels of both. prepare: the sample at a position. A sample
    whose partner is damaged, or of another encoder, is mixed with itself. masks: the decoders of masks, which are cut
    like the pixels in CutMix, and count wholly."""
    first = position // batch * batch
    partner = first + (position - first + mixture.shift) % batch
    try:
        other = prepare(partner) if partner != position else own
    except DataError:
        other = own
    if other.encoder != own.encoder or not other.labels:
        other = own
    pixels, cut = blend_pixels(own.pixels, other.pixels, mixture), frozenset[str]()
    labels, others = own.labels, other.labels
    if mixture.box is not None:
        cut, axes = frozenset(masks), own.pixels.ndim - 1
        labels = {
            name: cut_masks(found, others.get(name, ()), mixture, axes) if name in cut else found
            for name, found in labels.items()
        }
        others = {name: found for name, found in others.items() if name not in cut}
    return replace(own, pixels=pixels, labels=labels, others=others, share=mixture.share, cut=cut)
