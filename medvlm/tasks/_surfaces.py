"""How far the surfaces of two masks are from each other, and how alike their volumes are.

A surface is the pixels of a mask with a neighbour outside of it along an axis, or at the edge of the image. Distances
are between the centres of such pixels, as in MONAI: in mm, or in pixels where the spacing is unknown.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from medvlm.tasks._overlap import read_planes, read_truth, size_of

Surfaces = tuple[np.ndarray, np.ndarray, float]
"""The distance of each surface pixel of the one mask to the surface of the other, and the other way round; and the
longest distance within the image."""


def share_within(surfaces: Surfaces, tolerance: float) -> float:
    """Normalised surface distance (surface Dice): the share of both surfaces that is within a tolerance of the other
    (Nikolov et al. 2018, arXiv 1809.04430, with pixels in place of surface elements, as in MONAI).

    1 without any surface, 0 if only one mask has one."""
    one, other, _ = surfaces
    count = len(one) + len(other)
    return float(((one <= tolerance).sum() + (other <= tolerance).sum()) / count) if count else 1.0


def find_hd95(surfaces: Surfaces) -> float:
    """The larger of the 95th percentiles of both directions. 0 without any surface; the longest distance within the
    image if only one mask has one."""
    one, other, longest = surfaces
    if not len(one) and not len(other):
        return 0.0
    if not len(one) or not len(other) or not np.isfinite(one).all():
        return longest
    return float(max(np.percentile(one, 95), np.percentile(other, 95)))


@lru_cache(maxsize=1 << 12)
def judge_surfaces(
    answer: str, runs: str, classes: int, spacing: tuple[float, ...], tolerance: float
) -> tuple[tuple[float, float], ...]:
    """For each class its normalised surface distance and HD95. An answer that cannot be read is as far away as
    possible."""
    true, counted = read_truth(runs, classes)
    found = read_planes(answer, classes, size_of(runs))
    if found is None:
        pairs = [(np.full(1, np.inf), np.empty(0), _find_longest(true.shape[1:], spacing))] * classes
    else:
        pairs = [measure(one & counted, other, spacing) for one, other in zip(found, true, strict=True)]
    return tuple((share_within(surfaces, tolerance), find_hd95(surfaces)) for surfaces in pairs)


def judge_plane(
    found: np.ndarray, true: np.ndarray, spacing: tuple[float, ...], tolerance: float
) -> tuple[float, float]:
    """The same for one class."""
    surfaces = measure(found, true, spacing)
    return share_within(surfaces, tolerance), find_hd95(surfaces)


def measure(found: np.ndarray, true: np.ndarray, spacing: tuple[float, ...] = ()) -> Surfaces:
    """found, true: bool [*size]. spacing: of the axes; () is 1 for each."""
    from scipy.ndimage import distance_transform_edt

    sides = np.array(spacing or (1.0,) * true.ndim)
    longest = _find_longest(true.shape, spacing)
    box = _find_box(found | true)
    one, other = (_find_surface(mask[box]) for mask in (found, true))
    if not one.any() or not other.any():
        far = np.full(int(one.sum() + other.sum()), np.inf)
        return (far, far[:0], longest) if one.any() else (far[:0], far, longest)
    to_other, to_one = (distance_transform_edt(~surface, sampling=sides) for surface in (other, one))
    return to_other[one], to_one[other], longest


def _find_longest(size: tuple[int, ...], spacing: tuple[float, ...]) -> float:
    return float(np.linalg.norm((np.array(size) - 1) * np.array(spacing or (1.0,) * len(size))))


def _find_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest part of the image that holds a mask, with one pixel around it: outside of it, there is no
    surface."""
    if not mask.any():
        return (slice(0, 1),) * mask.ndim
    spans = [np.flatnonzero(mask.any(tuple(n for n in range(mask.ndim) if n != axis))) for axis in range(mask.ndim)]
    return tuple(slice(max(span[0] - 1, 0), span[-1] + 2) for span in spans)


def _find_surface(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask)
