"""Cleans a mask by its connected components: pixels that touch at a face, an edge or a corner belong together."""

from __future__ import annotations

import heapq

import numpy as np


def keep_largest(mask: np.ndarray) -> np.ndarray:
    """The largest component of a mask, bool; of several the first one in the order of the array."""
    numbers, sizes = _label(mask)
    return numbers == 1 + sizes.argmax() if len(sizes) else mask


def drop_small(mask: np.ndarray, pixels: float) -> np.ndarray:
    """The components of at least so many pixels."""
    numbers, sizes = _label(mask)
    return np.concatenate([[False], sizes >= pixels])[numbers]


def split_touching(mask: np.ndarray, radius: float) -> np.ndarray:
    """The mask without the lines along which its objects touch, by a watershed of the distance to what is not marked
    (Meyer's flooding, 1994). Objects have centres, the places that lie deepest within them, that are more than `radius`
    pixels apart. What is cut is one pixel wide."""
    from scipy.ndimage import distance_transform_edt, generate_binary_structure, label, maximum_filter, minimum_filter

    if not mask.any():
        return mask
    bounds = tuple(slice(at.min(), at.max() + 1) for at in mask.nonzero())
    if mask[bounds].shape != mask.shape:
        found = np.zeros_like(mask)
        found[bounds] = split_touching(mask[bounds], radius)
        return found
    around = generate_binary_structure(mask.ndim, mask.ndim)
    padded = np.pad(mask, 1)  # the edge of the image is no part of an object
    depth = distance_transform_edt(padded)
    offsets = np.indices([2 * int(radius) + 1] * mask.ndim) - int(radius)
    near = (offsets**2).sum(0) <= radius**2
    # Depths along the middle of an object differ by rounding: what is within half a pixel of its deepest place is one.
    seeds, _ = label(padded & (depth >= maximum_filter(depth, footprint=near) - 0.5), around)
    owners = _flood(depth, padded, seeds)
    far = np.iinfo(owners.dtype).max
    kept = padded & (owners <= minimum_filter(np.where(owners > 0, owners, far), footprint=around))
    return kept[(slice(1, -1),) * mask.ndim]


def _flood(depth: np.ndarray, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The number of the seed that reaches each marked pixel first, from the deepest places outwards. Of pixels of one
    depth, the one that was reached first is left first. The edges of the arrays are not marked."""
    places = [int(np.ravel_multi_index(at, mask.shape)) for at in np.ndindex(*[3] * mask.ndim)]
    steps = [place - places[len(places) // 2] for place in places if place != places[len(places) // 2]]
    levels, inside, owners = -depth.ravel(), mask.ravel(), seeds.ravel().copy()
    queue = [(float(levels[at]), number, int(at)) for number, at in enumerate(np.flatnonzero(owners))]
    heapq.heapify(queue)
    reached = len(queue)
    while queue:
        level, _, at = heapq.heappop(queue)
        for step in steps:
            other = at + step
            if inside[other] and not owners[other]:
                owners[other] = owners[at]
                reached += 1
                heapq.heappush(queue, (max(float(levels[other]), level), reached, other))
    return owners.reshape(mask.shape)


def count_components(mask: np.ndarray) -> int:
    return len(_label(mask)[1])


def list_components(mask: np.ndarray) -> list[np.ndarray]:
    """Each component as a mask of its own."""
    numbers, sizes = _label(mask)
    return [numbers == number for number in range(1, len(sizes) + 1)]


def _label(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of the component of each pixel, 0 for none, and the sizes of the components."""
    from scipy.ndimage import generate_binary_structure, label

    numbers, count = label(mask, generate_binary_structure(mask.ndim, mask.ndim))
    return numbers, np.bincount(numbers.ravel(), minlength=count + 1)[1:]
