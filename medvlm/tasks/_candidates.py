"""Where a decoder suspects objects, and how sure it is: candidates behind the masks of an answer, and their FROC.

An answer with candidates is `352x352 RUNS|RUNS 5021:34,88:-7|`: for each class, the pixel (its index in the array's
memory) of the highest probability of each candidate, and the log-odds there in tenths.

A candidate is a component of the pixels above 0.5, or of those above a lower threshold if it has no candidate of a
higher one. Axes: S levels of scores, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from medvlm.tasks._objects import label_components, read_objects
from medvlm.tasks._overlap import read_planes, read_truth, size_of

THRESHOLDS = (0.5, 0.25, 0.1, 0.05)
LOWEST, HIGHEST = -30, 160
"""Tenths of log-odds: of a probability of 0.05, and of the highest that float32 tells from 1."""
RATES = (0.25, 0.5, 1, 2, 4, 8)
"""False alarms per image at which the sensitivities of the FROC score are taken, as in CAMELYON16."""
Candidates = tuple[tuple[int, int], ...]
"""(pixel, score) each."""


def find_candidates(probabilities: np.ndarray) -> Candidates:
    """probabilities: [*size], of one class."""
    from scipy.ndimage import maximum_position

    peaks: list[tuple[int, ...]] = []
    for threshold in THRESHOLDS:
        numbers = label_components(probabilities > threshold)
        known = {int(numbers[peak]) for peak in peaks}
        new = [number for number in range(1, int(numbers.max(initial=0)) + 1) if number not in known]
        peaks += maximum_position(probabilities, numbers, new) if new else []
    return tuple((int(np.ravel_multi_index(peak, numbers.shape)), _score(float(probabilities[peak]))) for peak in peaks)


def write_candidates(of_classes: Sequence[Candidates]) -> str:
    return "|".join(",".join(f"{at}:{score}" for at, score in found) for found in of_classes)


def _score(probability: float) -> int:
    clipped = min(max(probability, 1e-9), 1 - 2**-25)
    return min(max(int(np.floor(10 * np.log(clipped / (1 - clipped)))), LOWEST), HIGHEST)


def _read(answer: str, number: int, plane: np.ndarray) -> Candidates:
    """Of one class. In an answer without candidates, the components of its mask are equally sure, and each stands for
    the pixel that is farthest from its edge."""
    from scipy.ndimage import distance_transform_edt, maximum_position

    written = answer.split(" ", 2)[2:]
    if written:
        found = written[0].split("|")[number]
        pairs = [each.partition(":") for each in found.split(",") if each]
        return tuple((int(at), int(score)) for at, _, score in pairs)
    numbers = label_components(plane)
    count = int(numbers.max(initial=0))
    depth = distance_transform_edt(np.pad(plane, 1))[(slice(1, -1),) * plane.ndim]
    peaks = maximum_position(depth, numbers, range(1, count + 1)) if count else []
    return tuple((int(np.ravel_multi_index(peak, plane.shape)), 0) for peak in peaks)


@lru_cache(maxsize=1 << 10)
def count_candidates(answer: str, runs: str, numbered: str, classes: int) -> tuple[tuple[float, ...], ...]:
    """For each class: hits and false alarms at each score, the number of objects, and 1 for the image. A true object is
    hit by the surest candidate in it, and others in it count for nothing, as do those on pixels that do not count."""
    marked, counted = read_truth(runs, classes)
    planes = read_planes(answer, classes, size_of(runs))
    columns = []
    for number in range(classes):
        own = read_objects(numbered, number, classes) if numbered else label_components(marked[number])
        true = (own * counted).ravel()
        hits, alarms, best = np.zeros((2, HIGHEST - LOWEST + 1)).tolist(), [], dict[int, int]()
        for at, score in () if planes is None else _read(answer, number, planes[number]):
            if true[at]:
                best[int(true[at])] = max(score, best.get(int(true[at]), LOWEST))
            elif counted.ravel()[at]:
                alarms.append(score)
        if planes is None:
            alarms.append(HIGHEST)
        for row, scores in zip(hits, (best.values(), alarms), strict=True):
            for score in scores:
                row[score - LOWEST] += 1
        columns.append((*hits[0], *hits[1], float(len(np.unique(true[true > 0]))), 1.0))
    return tuple(columns)


def find_froc(totals_RK: np.ndarray) -> np.ndarray:
    """The mean sensitivity at RATES, of sums of the columns; beyond the last false alarm, sensitivity stays as it is.
    Equals MONAI's compute_froc_score. NaN without an object."""
    levels = HIGHEST - LOWEST + 1
    surest_first = np.cumsum(totals_RK[:, : 2 * levels].reshape(-1, 2, levels)[..., ::-1], -1)
    objects_R, images_R = totals_RK[:, -2:].T
    found = []
    for (hits_S, alarms_S), objects, images in zip(surest_first, objects_R, images_R, strict=True):
        sensitivity = np.interp(RATES, [0, *(alarms_S / images)], [0, *hits_S])
        found.append(sensitivity.mean() / objects if objects else np.nan)
    return np.array(found)
