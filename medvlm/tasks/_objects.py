"""Which objects of a mask were found: those of the truth against the connected components of an answer.

Pixels that touch at a face, an edge or a corner are of one component. Pixels of which nobody says what they show are of
no object. Axes: K classes, T true and F found objects of a class.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from medvlm.tasks._overlap import read_planes, read_truth, size_of
from medvlm.tasks._runs import read_numbers

MATCHED = 0.5
"""A pair of objects whose IoU is above this is a match, of which an object can have one at most."""


class Compared(NamedTuple):
    """Of a class. matched: pairs of objects with an IoU above one half, and iou: the sum of their IoUs. found, true:
    how many objects there are. aji: as find_aji(). hit: true objects of which the answer marks a pixel. alarms: found
    objects without a pixel of a true one."""

    matched: int
    iou: float
    found: int
    true: int
    aji: float
    hit: int
    alarms: int


@lru_cache(maxsize=1 << 10)
def compare_objects(answer: str, runs: str, numbered: str, classes: int) -> tuple[Compared, ...]:
    """For each class. An answer that cannot be read misses every object, and is one false alarm. numbered: as
    Truth.numbered in mask.py; by default objects of the truth are its components."""
    marked, counted = read_truth(runs, classes)
    planes = read_planes(answer, classes, size_of(runs))
    compared = []
    for number in range(classes):
        own = read_objects(numbered, number, classes) if numbered else label_components(marked[number])
        true = own * counted
        if planes is None:
            compared.append(Compared(0, 0.0, 1, int(true.max(initial=0)), 0.0, 0, 1))
        else:
            compared.append(_compare(true, label_components(planes[number] & counted)))
    return tuple(compared)


def label_components(mask: np.ndarray) -> np.ndarray:
    """The number of the component of each pixel, 0 for none."""
    from scipy.ndimage import generate_binary_structure, label

    numbers: np.ndarray = label(mask, generate_binary_structure(mask.ndim, mask.ndim))[0]
    return numbers


def read_objects(numbered: str, number: int, classes: int) -> np.ndarray:
    """The objects of one class, numbered from 1."""
    labels = read_numbers(numbered)
    own = np.where((labels > 0) & ((labels - 1) % classes == number), labels, 0)
    values, found = np.unique(own, return_inverse=True)
    return found.reshape(own.shape) + (0 if values[0] == 0 else 1)


def find_aji(shared_TF: np.ndarray, true_T: np.ndarray, found_F: np.ndarray) -> float:
    """Aggregated Jaccard index (Kumar et al. 2017, https://doi.org/10.1109/TMI.2017.2677499, algorithm 1). 1 without
    any object. shared_TF: pixels of each pair. true_T, found_F: of each object.

    Each true object is paired with the found one of the highest IoU, if any overlaps it. Found objects that no true one
    is paired with, and true ones without a pair, add their pixels to the union."""
    if not len(true_T) and not len(found_F):
        return 1.0
    shared = joint = 0
    is_paired_F = np.zeros(len(found_F), bool)
    for row_F, pixels in zip(shared_TF, true_T, strict=True):
        either_F = pixels + found_F - row_F
        best = int((row_F / either_F).argmax()) if len(found_F) else -1
        if best < 0 or not row_F[best]:
            joint += int(pixels)
            continue
        is_paired_F[best] = True
        shared, joint = shared + int(row_F[best]), joint + int(either_F[best])
    return shared / (joint + int(found_F[~is_paired_F].sum()))


def _compare(true: np.ndarray, found: np.ndarray) -> Compared:
    """Both numbered from 1, with 0 for none; a number without a pixel is no object."""
    rows, columns = int(true.max(initial=0)) + 1, int(found.max(initial=0)) + 1
    joint = np.bincount((true * columns + found).ravel(), minlength=rows * columns).reshape(rows, columns)
    true_T, found_F = joint.sum(1)[1:], joint.sum(0)[1:]
    shared_TF = joint[1:, 1:][true_T > 0][:, found_F > 0]
    true_T, found_F = true_T[true_T > 0], found_F[found_F > 0]
    iou_TF = shared_TF / (true_T[:, None] + found_F - shared_TF)
    is_match_TF = iou_TF > MATCHED
    return Compared(
        int(is_match_TF.sum()),
        float(iou_TF[is_match_TF].sum()),
        len(found_F),
        len(true_T),
        find_aji(shared_TF, true_T, found_F),
        int(shared_TF.any(1).sum()),
        int((~shared_TF.any(0)).sum()),
    )
