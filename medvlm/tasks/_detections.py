"""Boxes with scores: average precision and FROC, of boxes that overlap a true one by at least an IoU.

The found boxes of an image, the surest first, each take the true box of their class with the highest IoU that nobody
took yet; those that find none of at least the threshold are false (Everingham et al. 2010, section 4.2, and COCO). A
box has four numbers (x1, y1, x2, y2) or six (x1, y1, z1, x2, y2, z2).
Axes: S levels of scores, R draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from medvlm.core.measure import Measure, OfItems

if TYPE_CHECKING:
    import numpy as np

# numpy is imported where arrays are, since it takes as long to load as everything else of a reward.

Boxes = tuple[tuple[float, ...], ...]
Found = tuple[tuple[tuple[float, ...], int], ...]
"""Boxes of a class with the log-odds of their scores in tenths."""
LOWEST, HIGHEST = -60, 160
"""Tenths of log-odds: of 0.0025, and of the highest probability that float32 tells from 1."""
LEVELS = HIGHEST - LOWEST + 1
SURE = 0.5
"""The IoU of a right box in the score of a question."""
JUDGES, CANDIDATES = 100, 30
"""Truths that constant answers are tried on, and these answers."""


def write_found(of_classes: Sequence[Sequence[tuple[tuple[float, ...], float]]]) -> str:
    """Boxes with probabilities, by class. Those that have no area in hundredths of a pixel are left out: they could not
    be read again, and with them the whole answer."""
    rounded = ([(tuple(round(n, 2) for n in box), score) for box, score in each] for each in of_classes)
    return "|".join(
        ";".join(f"{','.join(f'{n:.8g}' for n in box)}:{_to_level(score)}" for box, score in found if has_area(box))
        for found in rounded
    )


def has_area(box: Sequence[float]) -> bool:
    axes = len(box) // 2
    return all(box[axis] < box[axes + axis] for axis in range(axes))


def _to_level(probability: float) -> int:
    clipped = min(max(probability, 1e-9), 1 - 2**-25)
    return min(max(math.floor(10 * math.log(clipped / (1 - clipped))), LOWEST), HIGHEST)


@lru_cache(maxsize=1 << 10)
def read(text: str, classes: int) -> tuple[Found, ...] | None:
    """None for a text of another number of classes, or with anything else than boxes that have an area."""
    parts = text.split("|")
    if len(parts) != classes:
        return None
    try:
        return tuple(tuple(_read_box(each) for each in part.split(";") if each) for part in parts)
    except ValueError:
        return None


def _read_box(text: str) -> tuple[tuple[float, ...], int]:
    numbers, _, level = text.partition(":")
    box = tuple(float(n) for n in numbers.split(","))
    if len(box) not in (4, 6) or not all(map(math.isfinite, box)) or not has_area(box):
        raise ValueError(text)
    return box, min(max(int(level), LOWEST), HIGHEST)


def find_iou(a: Sequence[float], b: Sequence[float]) -> float:
    axes = len(a) // 2
    if len(a) != len(b):
        return 0.0
    shared, own, other = 1.0, 1.0, 1.0
    for i in range(axes):
        shared *= max(0.0, min(a[axes + i], b[axes + i]) - max(a[i], b[i]))
        own, other = own * (a[axes + i] - a[i]), other * (b[axes + i] - b[i])
    return shared / (own + other - shared)


def match(found: Found, true: Sequence[Sequence[float]], least: float) -> list[tuple[int, bool]]:
    """The level of each found box, and whether it is right."""
    free, matched = list(range(len(true))), []
    for box, level in sorted(found, key=lambda each: -each[1]):
        overlaps = [(find_iou(box, true[number]), number) for number in free]
        best, number = max(overlaps, default=(0.0, -1))
        matched.append((level, best >= least and best > 0))
        if matched[-1][1]:
            free.remove(number)
    return matched


@lru_cache(maxsize=1 << 10)
def find_f1(answer: str, boxes: Boxes, of: tuple[int, ...], classes: int) -> float:
    found = read(answer, classes)
    if found is None:
        return 0.0
    right = told = 0
    for number, of_class in enumerate(found):
        sure = tuple(each for each in of_class if each[1] >= 0)
        own = [box for box, of_box in zip(boxes, of, strict=True) if of_box == number]
        right, told = right + sum(is_right for _, is_right in match(sure, own, SURE)), told + len(sure)
    return 2 * right / (told + len(boxes)) if told + len(boxes) else 1.0


def count_levels(least: float, answer: Any, truth: Any) -> dict[str, tuple[float, ...]]:
    """For each class: right and false boxes at each level, the number of objects, and 1 for the image. An answer that
    cannot be read is one false box, the surest."""
    text = answer if isinstance(answer, str) else "?"
    return dict(zip(truth.classes, _count(text, truth.boxes, truth.of, len(truth.classes), least), strict=True))


@lru_cache(maxsize=1 << 10)
def _count(answer: str, boxes: Boxes, of: tuple[int, ...], classes: int, least: float) -> tuple[Any, ...]:
    found = read(answer, classes)
    columns = []
    for number in range(classes):
        own = [box for box, of_box in zip(boxes, of, strict=True) if of_box == number]
        matched = match(found[number], own, least) if found is not None else [(HIGHEST, False)]
        right, false = [0.0] * LEVELS, [0.0] * LEVELS
        for level, is_right in matched:
            (right if is_right else false)[level - LOWEST] += 1
        columns.append((*right, *false, float(len(own)), 1.0))
    return tuple(columns)


def _accumulate(totals_RK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right and false boxes that are at least as sure, the surest first, [R, S]."""
    import numpy as np

    summed = np.cumsum(totals_RK[:, : 2 * LEVELS].reshape(-1, 2, LEVELS)[..., ::-1], -1)
    return summed[:, 0], summed[:, 1]


def find_precision(totals_RK: np.ndarray) -> np.ndarray:
    """Average precision as in COCO: the mean over 101 recalls of the highest precision at that recall or a higher one.
    Boxes of one level are one point. NaN without an object."""
    import numpy as np

    right_RS, false_RS = _accumulate(totals_RK)
    found = []
    for right_S, false_S, objects in zip(right_RS, false_RS, totals_RK[:, -2], strict=True):
        if not objects:
            found.append(np.nan)
            continue
        told = right_S + false_S
        precision_S = np.where(told > 0, right_S / np.maximum(told, 1e-12), 0)
        best_S = np.maximum.accumulate(precision_S[::-1])[::-1]
        at = np.searchsorted(right_S / objects - 1e-12, np.linspace(0, 1, 101) - 1e-9)
        found.append(np.where(at < LEVELS, best_S[np.minimum(at, LEVELS - 1)], 0).mean())
    return np.array(found)


RATES = (0.125, 0.25, 0.5, 1, 2, 4, 8)
"""False boxes per image at which the sensitivities of the FROC score are taken, as in LUNA16."""


def find_froc(totals_RK: np.ndarray) -> np.ndarray:
    """The mean sensitivity at RATES; beyond the last false box, sensitivity stays as it is. NaN without an object."""
    import numpy as np

    right_RS, false_RS = _accumulate(totals_RK)
    found = []
    for right_S, false_S, objects, images in zip(right_RS, false_RS, *totals_RK[:, -2:].T, strict=True):
        sensitivity = np.interp(RATES, [0, *(false_S / images)], [0, *right_S])
        found.append(sensitivity.mean() / objects if objects else np.nan)
    return np.array(found)


def _pool(metric: Any) -> OfItems:
    def of_items(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
        import numpy as np

        found: np.ndarray = metric(np.einsum("rn,nk->rk", times_RN, items_NK))  # not @, whose order depends on threads
        return found

    return OfItems(of_items)


def _need(items_NK: np.ndarray) -> tuple[np.ndarray]:
    return (items_NK[:, -2] > 0,)


def best_constant(truths: Sequence[Any], measure: Measure | None = None) -> str:
    """Of the boxes of each of some truths, all equally sure, those with the best value for the measure; for the mean
    F1 without one."""
    judges = [truths[i * len(truths) // min(JUDGES, len(truths))] for i in range(min(JUDGES, len(truths)))]
    tried = [truths[i * len(truths) // min(CANDIDATES, len(truths))] for i in range(min(CANDIDATES, len(truths)))]
    answers = dict.fromkeys(
        write_found(
            [[(box, 0.6) for box, of in zip(t.boxes, t.of, strict=True) if of == n] for n in range(len(t.classes))]
        )
        for t in tried
    )

    def rate(answer: str) -> float:
        import numpy as np

        if measure is None:
            return sum(find_f1(answer, t.boxes, t.of, len(t.classes)) for t in judges)
        least, metric = MEASURED[measure.metric]
        found = []
        for name in judges[0].classes:
            items = [count_levels(least, answer, t)[name] for t in judges if name in t.classes]
            found.append(float(metric(np.array(items).sum(0, keepdims=True))[0]))
        known = [value for value in found if not math.isnan(value)]
        return sum(known) / len(known) if known else 0.0

    return max(answers, key=rate)


MEASURED: dict[str, tuple[float, Any]] = {
    "map_10": (0.1, find_precision),
    "map_50": (0.5, find_precision),
    "froc_10": (0.1, find_froc),
}
WORDS = {"map_10": "mAP at IoU 0.1", "map_50": "mAP at IoU 0.5", "froc_10": "FROC score at IoU 0.1"}
MEASURES = tuple(
    Measure(
        name,
        "detect",
        partial(count_levels, least),
        statistic=_pool(metric),
        by_template=True,
        by_class=True,
        needs=_need,
        headline=name == "map_10",
        words=WORDS[name],
    )
    for name, (least, metric) in MEASURED.items()
)
