"""Spacing, patch, network and batch for masks of a data set, by the rules of nnU-Net (Isensee et al. 2021,
https://doi.org/10.1038/s41592-020-01008-z, supplementary note 2), as its planner of version 2 computes them.

Differing from it, axes keep their order, nothing is cropped to what is not 0, and there is one configuration: neither
2D for volumes, nor a cascade. Axes: N samples, A axes of a medium.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

ANISOTROPY = 3.0
"""An axis is coarse if its spacing is more than so many times the others', and its pixels fewer by this factor."""
LEAST_SIDE = 4
"""Pixels of the smallest map along an axis."""
BASE_WIDTH, MOST_WIDTH = 32, {2: 512, 3: 320}
CONVOLUTIONS = 2
"""Of each stage of the encoder and of the decoder."""
BUDGET, BUDGET_GIB, BUDGET_BATCH = {2: 85_000_000, 3: 560_000_000}, 8.0, {2: 12, 3: 2}
"""Numbers in the maps of a batch that fit so many GiB."""
FIRST_VOLUME = {2: 2048**2, 3: 256**3}
LEAST_BATCH, MOST_SHARE = 2, 0.05
"""A batch shows at most this share of the pixels of the data set, but at least so many patches."""


@dataclass(frozen=True)
class Shapes:
    """Of the training samples. sizes_NA: stored pixels. spacings_NA: mm."""

    sizes_NA: np.ndarray
    spacings_NA: np.ndarray
    channels: int = 1
    maps: int = 2
    """Of the decoder, with the background."""


@dataclass(frozen=True)
class Network:
    """A U-Net: strides and kernels of its stages, the first with stride 1. patch: the size of its input, which the
    strides divide."""

    patch: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(min(BASE_WIDTH * 2**n, MOST_WIDTH[len(self.patch)]) for n in range(len(self.strides)))

    @property
    def divisors(self) -> tuple[int, ...]:
        return tuple(math.prod(stride) for stride in zip(*self.strides, strict=True))


@dataclass(frozen=True)
class Proposal:
    """median: pixels of a medium at the spacing."""

    spacing_mm: tuple[float, ...]
    median: tuple[int, ...]
    network: Network
    batch: int


def propose(shapes: Shapes, gpu_gib: float = BUDGET_GIB) -> Proposal:
    """gpu_gib: memory of a GPU; nnU-Net's own plans are for 8."""
    spacing_A = choose_spacing(shapes)
    resampled_NA = np.rint(shapes.sizes_NA * shapes.spacings_NA / spacing_A)
    median_A = np.median(resampled_NA, 0)
    axes, budget = len(spacing_A), BUDGET[len(spacing_A)] * gpu_gib / BUDGET_GIB
    reference = BUDGET_BATCH[axes]
    per_mm = 1 / spacing_A
    first = per_mm * (FIRST_VOLUME[axes] / per_mm.prod()) ** (1 / axes)
    network = choose_network(
        spacing_A.tolist(), [min(round(side), most) for side, most in zip(first, median_A, strict=True)]
    )
    while 2 * count_numbers(network, shapes) / reference > budget:
        smaller = _reduce(network, spacing_A.tolist(), median_A)
        if smaller.patch == network.patch:
            break
        network = smaller
    fitting = round(budget / count_numbers(network, shapes) * reference)
    most = round(median_A.prod() * len(shapes.sizes_NA) * MOST_SHARE / math.prod(network.patch))
    return Proposal(
        tuple(spacing_A.tolist()), tuple(map(round, median_A.tolist())), network, max(min(fitting, most), LEAST_BATCH)
    )


def choose_spacing(shapes: Shapes) -> np.ndarray:
    """The median spacing; along a coarse axis the 10th percentile, so that fewer thin slices are lost."""
    spacing_A, size_A = np.median(shapes.spacings_NA, 0), np.median(shapes.sizes_NA, 0)
    worst = int(spacing_A.argmax())
    others = [axis for axis in range(len(spacing_A)) if axis != worst]
    coarsest = spacing_A[others].max()
    if spacing_A[worst] > ANISOTROPY * coarsest and size_A[worst] * ANISOTROPY < size_A[others].min():
        finer = np.percentile(shapes.spacings_NA[:, worst], 10)
        spacing_A[worst] = finer if finer >= coarsest else coarsest + 1e-5
    return spacing_A


def choose_network(spacing: Sequence[float], patch: Sequence[int]) -> Network:
    """Halves axes until the spacings are alike, then all of them, as far as their sides allow. An axis gets kernels of
    3 once its spacing is within a factor of 2 of the finest."""
    axes = range(len(spacing))
    spacings, sides = list(spacing), [float(side) for side in patch]
    strides, kernels, kernel = [(1,) * len(spacing)], [], [1] * len(spacing)
    while valid := [axis for axis in axes if sides[axis] >= 2 * LEAST_SIDE]:
        finest = min(spacings[axis] for axis in valid)
        valid = [axis for axis in valid if spacings[axis] / finest < 2]
        if len(valid) == 1 and sides[valid[0]] < 3 * LEAST_SIDE:
            break
        kernel = [
            3 if k == 3 or spacings[axis] / min(spacings) < 2 else 1 for axis, k in zip(axes, kernel, strict=True)
        ]
        kernels.append(tuple(kernel))
        for axis in valid:
            spacings[axis], sides[axis] = 2 * spacings[axis], math.ceil(sides[axis] / 2)
        strides.append(tuple(2 if axis in valid else 1 for axis in axes))
    network = Network(tuple(map(int, patch)), tuple(strides), (*kernels, (3,) * len(spacing)))
    fitted = (math.ceil(side / n) * n for side, n in zip(network.patch, network.divisors, strict=True))
    return replace(network, patch=tuple(fitted))


def count_numbers(network: Network, shapes: Shapes) -> int:
    """In the maps of one patch: of each convolution, of each transposed one, and of the output."""
    sides, total, pyramid = network.patch, 0, []
    for stride, width in zip(network.strides, network.widths, strict=True):
        sides = tuple(side // by for side, by in zip(sides, stride, strict=True))
        pyramid.append((width, math.prod(sides)))
        total += CONVOLUTIONS * width * math.prod(sides)
    for width, pixels in pyramid[:-1]:
        total += (CONVOLUTIONS + 1) * width * pixels
    return total + shapes.maps * math.prod(network.patch)


def _reduce(network: Network, spacing: Sequence[float], median_A: np.ndarray) -> Network:
    """A smaller patch along the axis that is largest in relation to the data, by the smallest step that the network of
    the smaller patch allows."""
    axis = int(np.argsort([side / most for side, most in zip(network.patch, median_A, strict=True)])[-1])
    tried = list(network.patch)
    tried[axis] -= network.divisors[axis]
    step = choose_network(spacing, tried).divisors[axis] if tried[axis] > 0 else network.divisors[axis]
    patch = list(network.patch)
    patch[axis] -= step
    return choose_network(spacing, patch) if patch[axis] > 0 else network
