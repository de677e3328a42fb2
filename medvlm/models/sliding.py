"""Applies a network of one input size to a larger image or volume, in overlapping windows whose predictions are
averaged, with less weight at the edges of a window.

Windows, weights and result are those of MONAI's sliding_window_inference with mode="gaussian". The result comes in
slabs along the first axis, each as soon as no window that is left reaches it, so memory does not grow with the depth of
a volume. Axes: N windows, C channels, K maps, then those of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product

import torch

Predict = Callable[[torch.Tensor], torch.Tensor]
"""Windows [N, C, *window] -> their maps [N, K, *window]."""
SIGMA = 0.125
"""Width of the Gaussian of the weights, in sides of a window."""
LEAST = 1e-3
"""Smallest weight."""


@dataclass(frozen=True)
class Windows:
    """How a medium that is larger than the input is read.

    overlap: of neighbouring windows, as a share of their sides, in [0, 1). flips: axes along which each window is
    mirrored too, and the predictions averaged. batch: windows that are read together."""

    overlap: float = 0.5
    flips: tuple[int, ...] = ()
    batch: int = 2


def slide(
    predict: Predict, pixels: torch.Tensor, window: Sequence[int], overlap: float, batch: int = 1
) -> Iterator[torch.Tensor]:
    """Yields [K, n, *rest], consecutive parts along the first axis of `pixels`, [C, *size].

    overlap: of neighbouring windows, as a share of their sides, in [0, 1). Raises ValueError for pixels that are
    smaller than a window along some axis."""
    size = tuple(pixels.shape[1:])
    if any(side < own for side, own in zip(size, window, strict=True)):
        raise ValueError(f"pixels {list(size)} are smaller than a window {list(window)}; pad them first")
    first, *others = (list_starts(side, own, overlap) for side, own in zip(size, window, strict=True))
    weights = make_weights(window).to(pixels.device)
    places = list(product(*others))
    depth, rest = window[0], size[1:]
    total_KDR, counts_DR = None, torch.zeros(depth, *rest, device=pixels.device)
    for start, following in zip(first, [*first[1:], size[0]], strict=True):
        rows = slice(start, start + depth)
        for at in range(0, len(places), batch):
            spots = [_make_slices(place, window[1:]) for place in places[at : at + batch]]
            found = predict(torch.stack([pixels[(slice(None), rows, *spot)] for spot in spots])).float()
            if total_KDR is None:
                total_KDR = torch.zeros(found.shape[1], depth, *rest, device=found.device)
            for maps, spot in zip(found, spots, strict=True):
                total_KDR[(slice(None), slice(None), *spot)] += maps * weights
                counts_DR[(slice(None), *spot)] += weights
        assert total_KDR is not None
        done = following - start
        yield total_KDR[:, :done] / counts_DR[:done]
        total_KDR, counts_DR = _advance(total_KDR, done, 1), _advance(counts_DR, done, 0)


def list_starts(side: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along one axis. The last one ends with the axis."""
    step = window if side == window else max(int(window * (1 - overlap)), 1)
    starts = list(range(0, side - window + 1, step))
    return starts if starts[-1] == side - window else [*starts, side - window]


def make_weights(window: Sequence[int]) -> torch.Tensor:
    """A Gaussian around the centre of a window, [*window]."""
    weights = torch.ones(())
    for side in window:
        at = torch.arange(side) - (side - 1) / 2
        weights = weights[..., None] * torch.exp(-(at**2) / (2 * (SIGMA * side) ** 2))
    return weights.clamp(min=max(weights.min().item(), LEAST))


def average_flips(predict: Predict, axes: Sequence[int]) -> Predict:
    """The mean over the window and its mirror images along any of these axes, counted from 0 for the first axis of the
    image: 2 ** len(axes) predictions."""
    mirrors = [[2 + axis for axis in some] for some in chain(*(combinations(axes, n) for n in range(len(axes) + 1)))]

    def run(windows: torch.Tensor) -> torch.Tensor:
        total = sum(predict(windows.flip(mirror)).flip(mirror) for mirror in mirrors)
        assert isinstance(total, torch.Tensor)
        return total / len(mirrors)

    return run


def _make_slices(starts: Sequence[int], window: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(start, start + side) for start, side in zip(starts, window, strict=True))


def _advance(summed: torch.Tensor, done: int, axis: int) -> torch.Tensor:
    """The sums without their first `done` rows, and as many rows of zeros at their end."""
    kept = summed.narrow(axis, done, summed.shape[axis] - done)
    return torch.cat([kept, torch.zeros_like(summed.narrow(axis, 0, done))], axis)
