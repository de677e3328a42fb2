"""Measures of the objects in masks, for truths that know which pixels are of which object (Truth.objects).

Except for AJI, they pool the objects of all images: F1, SQ and PQ as in panoptic segmentation (Kirillov et al. 2019,
arXiv 1801.00868, equations 1 and 2), where F1 is their RQ. Axes as in core/measure.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from medvlm.core.measure import Measure, OfItems

if TYPE_CHECKING:
    import numpy as np

    from medvlm.tasks._objects import Compared

# numpy is imported where pixels are, since it takes as long to load as everything else of a reward.
Columns = dict[str, tuple[float, ...]]


def _compare(answer: Any, truth: Any) -> Mapping[str, Compared]:
    from medvlm.tasks._objects import compare_objects

    text = answer if isinstance(answer, str) else ""
    found = compare_objects(text, truth.runs, truth.numbered, len(truth.classes))
    return dict(zip(truth.classes, found, strict=True))


def count_objects(answer: Any, truth: Any) -> Columns:
    return {name: (c.matched, c.iou, c.found, c.true) for name, c in _compare(answer, truth).items()}


def count_hits(answer: Any, truth: Any) -> Columns:
    return {name: (c.hit, c.true) for name, c in _compare(answer, truth).items()}


def count_alarms(answer: Any, truth: Any) -> Columns:
    return {name: (c.alarms, 1.0) for name, c in _compare(answer, truth).items()}


def find_aji(answer: Any, truth: Any) -> Columns:
    return {name: (c.aji, 1.0) for name, c in _compare(answer, truth).items()}


def count_candidates(answer: Any, truth: Any) -> Columns:
    from medvlm.tasks._candidates import count_candidates

    text = answer if isinstance(answer, str) else ""
    found = count_candidates(text, truth.runs, truth.numbered, len(truth.classes))
    return dict(zip(truth.classes, found, strict=True))


def _pool(metric: Callable[[np.ndarray], np.ndarray]) -> OfItems:
    """A metric of sums of columns [R, K] that is NaN where there is nothing."""

    def of_items(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
        import numpy as np

        with np.errstate(invalid="ignore"):
            return metric(np.einsum("rn,nk->rk", times_RN, items_NK))  # not @, whose order depends on threads

    return OfItems(of_items)


def _froc(totals_RK: np.ndarray) -> np.ndarray:
    from medvlm.tasks._candidates import find_froc

    return find_froc(totals_RK)


def _need(column: int) -> Callable[[np.ndarray], tuple[np.ndarray]]:
    """The images with an object, by the column that counts them."""
    return lambda items_NK: (items_NK[:, column] > 0,)


F1, PQ, SQ, AJI, HIT_RATE, ALARMS, FROC = "object_f1", "pq", "sq", "aji", "hit_rate", "false_alarms", "froc"
EACH: Any = {"by_template": True, "by_class": True, "is_about": lambda template, truth: truth.objects}
OF_OBJECTS: Any = {**EACH, "needs": _need(3)}
MEASURES = (
    Measure(
        F1,
        "mask",
        count_objects,
        statistic=_pool(lambda t: 2 * t[:, 0] / (t[:, 2] + t[:, 3])),
        headline=True,
        words="F1 of objects at IoU 0.5",
        **OF_OBJECTS,
    ),
    Measure(
        PQ,
        "mask",
        count_objects,
        statistic=_pool(lambda t: 2 * t[:, 1] / (t[:, 2] + t[:, 3])),
        words="panoptic quality",
        **OF_OBJECTS,
    ),
    Measure(
        SQ,
        "mask",
        count_objects,
        statistic=_pool(lambda t: t[:, 1] / t[:, 0]),
        words="segmentation quality: IoU of matched objects",
        **OF_OBJECTS,
    ),
    Measure(AJI, "mask", find_aji, words="aggregated Jaccard index", **EACH),
    Measure(
        HIT_RATE,
        "mask",
        count_hits,
        statistic=_pool(lambda t: t[:, 0] / t[:, 1]),
        words="share of objects that are hit",
        needs=_need(1),
        **EACH,
    ),
    Measure(ALARMS, "mask", count_alarms, better="lower", bounds=None, words="false alarms per image", **EACH),
    Measure(FROC, "mask", count_candidates, statistic=_pool(_froc), words="FROC score", needs=_need(-2), **EACH),
)
