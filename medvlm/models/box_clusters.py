"""Boxes of several views of a medium become one set: weighted box clustering (Jaeger et al. 2018, arXiv 1811.08661,
section 2.3; code MIC-DKFZ/medicaldetectiontoolkit, `weighted_box_clustering`).

The surest box takes all that overlap it, and is given their mean score and place. A box weighs the more, the more it
overlaps the surest, the larger it is, and the nearer it lies to the centre of its window. Views that could have found
the object and did not lower the score: they count as boxes of mean weight and score 0.
Differing from the code, a box of one pixel has a side of 1, not 2, and the number of windows over a box is that of its
area, not of whole pixels.
Axes: M boxes, X axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 1e-5
"""The IoU from which on boxes are of one object."""
FAINT = 0.01
"""Scores up to which an object is not given."""
SPREAD = 0.8
"""Of the weights of boxes within a window, in halves of its sides."""


@dataclass(frozen=True)
class Seen:
    """What views found of one class. boxes: lower, then upper corners [M, 2 X]. scores, weights: [M]; weights of the
    place in the window. windows: how many of them lie over a box, in the mean over its area, [M]. views: the number of
    the view that found it, [M]."""

    boxes: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    windows: np.ndarray
    views: np.ndarray


def cluster(seen: Seen, networks: int, least: float = LEAST) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [M, 2 X] and scores [M], float64. networks: how often each window is read, mirrored or by several
    networks."""
    boxes, scores = (each.astype(np.float64) for each in (seen.boxes, seen.scores))
    left = scores.argsort(kind="stable")[::-1]
    found, sure = [], []
    while len(left):
        iou = find_iou(boxes[left[0]], boxes[left])
        is_own = iou > least
        is_own[0] = True
        own = left[is_own]
        weights = iou[is_own] * find_volumes(boxes[own]) * seen.weights[own]
        if not weights.sum():  # boxes without an area
            left = left[~is_own]
            continue
        missing = max(0.0, networks * seen.windows[own].mean() - len(np.unique(seen.views[own])))
        score = (weights * scores[own]).sum() / (weights.sum() + missing * weights.mean())
        if score > FAINT:
            found.append(np.average(boxes[own], 0, weights * scores[own]))
            sure.append(score)
        left = left[~is_own]
    order = np.argsort(sure, kind="stable")[::-1]
    return np.array(found).reshape(-1, boxes.shape[1])[order], np.array(sure)[order]


def weigh_places(boxes: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """[M]: 1 in the centre of a window of this size, less towards its edges; the mean of a Gaussian over the axes."""
    half = np.array(size) / 2
    axes = len(size)
    centres = (boxes[:, :axes] + boxes[:, axes:]) / 2
    weights: np.ndarray = np.exp(-((centres - half) ** 2) / (2 * (SPREAD * half) ** 2)).mean(1)
    return weights


def count_windows(boxes: np.ndarray, starts: Sequence[Sequence[int]], size: Sequence[int]) -> np.ndarray:
    """[M]: how many windows lie over a box, in the mean over its area. starts: where they begin, of each window."""
    axes, total = len(size), np.zeros(len(boxes))
    sides = np.maximum(boxes[:, axes:] - boxes[:, :axes], 1e-12)
    for start in starts:
        low = np.maximum(boxes[:, :axes], start)
        high = np.minimum(boxes[:, axes:], np.add(start, size))
        total += (np.maximum(high - low, 0) / sides).prod(1)
    return total


def find_volumes(boxes: np.ndarray) -> np.ndarray:
    axes = boxes.shape[1] // 2
    volumes: np.ndarray = np.maximum(boxes[:, axes:] - boxes[:, :axes], 0).prod(1)
    return volumes


def find_iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    axes = boxes.shape[1] // 2
    low, high = np.maximum(box[:axes], boxes[:, :axes]), np.minimum(box[axes:], boxes[:, axes:])
    shared = np.maximum(high - low, 0).prod(1)
    union = find_volumes(box[None]) + find_volumes(boxes) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
