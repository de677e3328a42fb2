"""Measures of masks: how much of them they share, how far their surfaces are from each other, how large they are, and
which objects were found (_object_measures.py).

A truth has `classes`, `runs` and `spacing_mm`, see mask.py; what empty masks mean is said there.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Sequence
from math import isnan, prod
from typing import TYPE_CHECKING, Any, cast

from medvlm.core.measure import Measure, ToColumnsByClass
from medvlm.tasks import _object_measures

if TYPE_CHECKING:
    import numpy as np

# numpy is imported where pixels are, since it takes as long to load as everything else of a reward.
JUDGES, FAR_JUDGES = 400, 16
"""Masks that a constant mask is made of; of distances between surfaces, which take longer, fewer."""
TOLERANCE = 2.0
"""In mm, or in pixels where the spacing is unknown: what NSD takes for the same place."""
Judge = Callable[[int, int, int], float]
"""(pixels that both mark, that the answer marks, that the truth marks) -> how alike they are."""


def count(answer: Any, truth: Any) -> tuple[tuple[int, int, int], ...]:
    from medvlm.tasks._overlap import count_overlap

    return count_overlap(answer if isinstance(answer, str) else "", truth.runs, len(truth.classes))


def _can_be_read(answer: Any, truth: Any) -> bool:
    from medvlm.tasks._overlap import read_planes, size_of

    return isinstance(answer, str) and read_planes(answer, len(truth.classes), size_of(truth.runs)) is not None


def dice(shared: int, found: int, true: int) -> float:
    return 2 * shared / (found + true) if found + true else 1.0


def iou(shared: int, found: int, true: int) -> float:
    return shared / (found + true - shared) if found + true else 1.0


def iou_marked(shared: int, found: int, true: int) -> float:
    """For masks that the truth marks; 0 for others, which do not count."""
    return iou(shared, found, true) if true else 0.0


def is_left_empty(shared: int, found: int, true: int) -> float:
    """For masks that the truth does not mark (N-acc of GRES, arXiv 2306.00968); 0 for others, which do not count."""
    return float(not found and not true)


def _average_by_class(judge: Judge, counts: Callable[[int], bool] = lambda true: True) -> ToColumnsByClass:
    """counts: whether a class counts of which the truth marks so many pixels."""

    def columns(answer: Any, truth: Any) -> dict[str, tuple[float, ...]]:
        pairs = zip(truth.classes, count(answer, truth), strict=True)
        return {name: (judge(*each), 1.0) for name, each in pairs if counts(each[2])}

    return columns


def similarity(shared: int, found: int, true: int) -> float:
    """Volumetric similarity (Taha and Hanbury 2015, https://doi.org/10.1186/s12880-015-0068-x, equation 22)."""
    return 1 - abs(found - true) / (found + true) if found + true else 1.0


def _compare_volumes(answer: Any, truth: Any) -> dict[str, tuple[float, ...]]:
    if not _can_be_read(answer, truth):
        return dict.fromkeys(truth.classes, (0.0, 1.0))
    return _average_by_class(similarity)(answer, truth)


def _by_surface(number: int) -> ToColumnsByClass:
    def columns(answer: Any, truth: Any) -> dict[str, tuple[float, ...]]:
        from medvlm.tasks._surfaces import judge_surfaces

        text = answer if isinstance(answer, str) else ""
        found = judge_surfaces(text, truth.runs, len(truth.classes), truth.spacing_mm, TOLERANCE)
        return {name: (each[number], 1.0) for name, each in zip(truth.classes, found, strict=True)}

    return columns


def _err_in_ml(answer: Any, truth: Any) -> dict[str, tuple[float, ...]]:
    from medvlm.tasks._overlap import read_truth

    voxel_ml = prod(truth.spacing_mm) / MM3_PER_ML
    if _can_be_read(answer, truth):
        pairs = [abs(found - true) for _, found, true in count(answer, truth)]
    else:  # as wrong as can be
        true_K, counted = read_truth(truth.runs, len(truth.classes))
        pairs = [max(true, int(counted.sum()) - true) for true in (int((each & counted).sum()) for each in true_K)]
    return {name: (pixels * voxel_ml, 1.0) for name, pixels in zip(truth.classes, pairs, strict=True)}


def _second_reader(answer: Any, truth: Any) -> dict[str, tuple[float, ...]]:
    """Of a second reader, whatever the answer is."""
    return _average_by_class(dice)(truth.second_runs, truth)


def _beyond_second_reader(answer: Any, truth: Any) -> dict[str, tuple[float, ...]]:
    own, other = (_average_by_class(dice)(text, truth) for text in (answer, truth.second_runs))
    return {name: (own[name][0] - other[name][0], 1.0) for name in own}


def best_constant(truths: Sequence[Any], measure: Measure | None = None) -> str:
    """For each class the pixels that at least a share of the masks mark, with the share for which the mean of the
    measure over these masks is best; of masks of the commonest size and classes."""
    from medvlm.tasks._overlap import average_over, compare, find_best_planes, size_of
    from medvlm.tasks._surfaces import judge_plane

    of_kind = defaultdict(list)
    for truth in truths:
        of_kind[truth.classes, size_of(truth.runs)].append(truth)
    alike, metric = max(of_kind.values(), key=len), measure.metric if measure else DICE
    judges = {DICE: dice, IOU: iou, VOLUME: similarity, MARKED: iou_marked, EMPTY: is_left_empty}
    if measure is not None and metric not in (*judges, NSD, HD95):
        return _find_best_by_columns(alike[:: max(1, len(alike) // FAR_JUDGES)], measure)
    most, thresholds = (JUDGES, 24) if metric in judges else (FAR_JUDGES, 8)
    alike = [alike[i * len(alike) // min(most, len(alike))] for i in range(min(most, len(alike)))]
    spacing = alike[0].spacing_mm

    def judge(plane: np.ndarray, true: np.ndarray, counted: np.ndarray) -> float:
        if metric in judges:
            return judges[metric](*compare(plane, true, counted))
        nsd, hd95 = judge_plane(plane & counted, true, spacing, TOLERANCE)
        return nsd if metric == NSD else -hd95

    masks, classes = [truth.runs for truth in alike], len(alike[0].classes)
    return find_best_planes(masks, classes, average_over(masks, classes, judge), thresholds)


def _find_best_by_columns(truths: Sequence[Any], measure: Measure) -> str:
    """The same for any measure, by what it says of each class."""
    import numpy as np

    from medvlm.metrics.bootstrap import value
    from medvlm.tasks._overlap import find_best_planes
    from medvlm.tasks._runs import write_runs

    classes, columns = truths[0].classes, cast(ToColumnsByClass, measure.columns)

    def rate(number: int, plane: np.ndarray) -> float:
        text = write_runs([plane if n == number else np.zeros_like(plane) for n in range(len(classes))])
        items_NK = np.array([columns(text, truth)[classes[number]] for truth in truths], float)
        found = value(items_NK, measure.statistic)
        return float("-inf") if isnan(found) else found if measure.better == "higher" else -found

    return find_best_planes([truth.runs for truth in truths], len(classes), rate, 8)


DICE, IOU, NSD, HD95, VOLUME = "dice", "iou", "nsd", "hd95", "volume_similarity"
MM3_PER_ML = 1000.0
MARKED, EMPTY = "iou_marked", "left_empty"
EACH: Any = {"by_template": True, "by_class": True}
OF_TWO: Any = {**EACH, "is_about": lambda template, truth: bool(truth.second_runs)}
MEASURES = (
    Measure(DICE, "mask", _average_by_class(dice), headline=True, words="Dice", **EACH),
    Measure(IOU, "mask", _average_by_class(iou), words="IoU", **EACH),
    Measure(NSD, "mask", _by_surface(0), words="NSD at 2 mm (pixels without a spacing)", **EACH),
    Measure(
        HD95, "mask", _by_surface(1), better="lower", bounds=None, words="HD95 in mm (pixels without a spacing)", **EACH
    ),
    Measure(VOLUME, "mask", _compare_volumes, words="volume similarity", **EACH),
    Measure(
        "volume_error_ml",
        "mask",
        _err_in_ml,
        is_about=lambda template, truth: len(truth.spacing_mm) == 3,
        better="lower",
        bounds=None,
        words="volume error in ml",
        **EACH,
    ),
    Measure("dice_second", "mask", _second_reader, better=None, words="Dice of the second reader", **OF_TWO),
    Measure(
        "dice_beyond_second",
        "mask",
        _beyond_second_reader,
        bounds=(-1.0, 1.0),
        words="Dice above that of the second reader",
        **OF_TWO,
    ),
    Measure(MARKED, "mask", _average_by_class(iou_marked, bool), words="IoU where it is there", **EACH),
    Measure(
        EMPTY, "mask", _average_by_class(is_left_empty, operator.not_), words="left empty where it is not there", **EACH
    ),
    *_object_measures.MEASURES,
)
