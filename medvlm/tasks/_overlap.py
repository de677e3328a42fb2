"""How many pixels two masks share, from their texts; and the constant mask that shares most with many.

runs: a plane for each class, and one more of the pixels of which nobody says what they show, where there are such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np

from medvlm.tasks._runs import drop_candidates, read_runs, write_runs

THRESHOLDS = 24
Judge = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""(what is marked, what should be, which pixels count), bool [*size] each -> how good that is."""
Rate = Callable[[int, np.ndarray], float]
"""(class, what is marked of it in every answer) -> how good that is."""


def size_of(runs: str) -> str:
    return runs.partition(" ")[0]


@lru_cache(maxsize=64)
def read_planes(text: str, planes: int, size: str) -> np.ndarray | None:
    """bool [planes, *size]; None for a text that is not so many masks of this size. Candidates behind them are left
    out."""
    return read_runs(drop_candidates(text), planes, tuple(map(int, size.split("x"))))


@lru_cache(maxsize=1 << 16)
def count_overlap(answer: str, runs: str, classes: int) -> tuple[tuple[int, int, int], ...]:
    """For each class the pixels that both mark, that the answer marks, and that the truth marks. An answer that cannot
    be read marks everything but what it should."""
    true, counted = read_truth(runs, classes)
    found = read_planes(answer, classes, size_of(runs))
    found = ~true if found is None else found
    return tuple(compare(*planes, counted) for planes in zip(found, true, strict=True))


def find_best_planes(masks: Sequence[str], classes: int, rate: Rate, thresholds: int = THRESHOLDS) -> str:
    """masks: of one size. thresholds: shares of the masks that are tried for a constant."""
    read = [read_truth(runs, classes) for runs in masks]
    best = []
    for number in range(classes):
        candidates = _list_candidates([true[number] for true, _ in read], thresholds)
        best.append(max(candidates, key=partial(rate, number)))
    return write_runs(best)


def average_over(masks: Sequence[str], classes: int, judge: Judge) -> Rate:
    read = [read_truth(runs, classes) for runs in masks]

    def rate(number: int, plane: np.ndarray) -> float:
        return sum(judge(plane, true[number], counted) for true, counted in read) / len(read)

    return rate


def read_truth(runs: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """bool [classes, *size], and bool [*size] of the pixels that count."""
    planes = read_planes(runs, runs.count("|") + 1, size_of(runs))
    assert planes is not None and len(planes) in (classes, classes + 1), (classes, runs[:80])
    return planes[:classes], np.ones(planes.shape[1:], bool) if len(planes) == classes else ~planes[classes]


def compare(found: np.ndarray, true: np.ndarray, counted: np.ndarray) -> tuple[int, int, int]:
    shared, own, other = (int((plane & counted).sum()) for plane in (found & true, found, true))
    return shared, own, other


def _list_candidates(masks: Sequence[np.ndarray], thresholds: int) -> list[np.ndarray]:
    share = np.mean(masks, axis=0)
    levels = np.unique(share[share > 0])
    tried = {round(number) for number in np.linspace(0, len(levels) - 1, thresholds).tolist()} if len(levels) else set()
    return [np.zeros(share.shape, bool), *(share >= levels[number] for number in sorted(tried))]
