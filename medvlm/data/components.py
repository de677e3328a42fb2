"""Cleans a mask by its connected components: pixels that touch at a face, an edge or a corner belong together."""

from __future__ import annotations

import numpy as np


def keep_largest(mask: np.ndarray) -> np.ndarray:
    """The largest component of a mask, bool; of several the first one in the order of the array."""
    numbers, sizes = _label(mask)
    return numbers == 1 + sizes.argmax() if len(sizes) else mask


def drop_small(mask: np.ndarray, pixels: float) -> np.ndarray:
    """The components of at least so many pixels."""
    numbers, sizes = _label(mask)
    return np.concatenate([[False], sizes >= pixels])[numbers]


def count_components(mask: np.ndarray) -> int:
    return len(_label(mask)[1])


def _label(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of the component of each pixel, 0 for none, and the sizes of the components."""
    from scipy.ndimage import generate_binary_structure, label

    numbers, count = label(mask, generate_binary_structure(mask.ndim, mask.ndim))
    return numbers, np.bincount(numbers.ravel(), minlength=count + 1)[1:]
