"""Measures of class scores, of each class against the rest: ranking, decisions at a threshold, and probabilities.

A question whose label of a class is not known is not about that class. An answer that cannot be read says the opposite
of every label. `truth` is that of `labels`; numpy is imported where it is needed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from medvlm.core.measure import AtPoints, Measure, OfItems
from medvlm.core.tasks import Decision

if TYPE_CHECKING:
    import numpy as np

GROUP = "labels"
DEFAULT = 0.5
SPECIFICITY = 0.9
NO_CLASS = -1.0
Columns = dict[str, tuple[float, ...]]
Groups = tuple["np.ndarray", ...]


def parse(answer: Any, truth: Any) -> list[float] | None:
    """None for anything but a probability for each class."""
    if not isinstance(answer, list | tuple) or len(answer) != len(truth.classes):
        return None
    if not all(isinstance(p, int | float) and math.isfinite(p) and 0 <= p <= 1 for p in answer):
        return None
    return list(map(float, answer))


def list_known(answer: Any, truth: Any) -> Iterator[tuple[str, float, bool]]:
    """(class, probability, label) of each class that is known."""
    found = parse(answer, truth) or [1.0 - bool(label) for label in truth.labels]
    for name, p, label in zip(truth.classes, found, truth.labels, strict=True):
        if label is not None:
            yield name, p, label


def find_most_probable(probabilities: Sequence[float]) -> int | None:
    """The index of the most probable class; None if another one is as probable."""
    most = max(probabilities)
    return probabilities.index(most) if probabilities.count(most) == 1 else None


def is_positive(probability: float, name: str, points: Mapping[str, float]) -> bool:
    """At least the threshold of the class; above 0.5 for a class without one."""
    return probability >= points[name] if name in points else probability > DEFAULT


def decide(answer: Any, truth: Any, points: Mapping[str, float]) -> list[Decision]:
    """Of each class that is known."""
    is_read = parse(answer, truth) is not None
    return [
        Decision(name, p, is_positive(p, name, points) if is_read else not label, label, points.get(name))
        for name, p, label in list_known(answer, truth)
    ]


def choose_points(answers: Sequence[Any], truths: Sequence[Any]) -> dict[str, float]:
    """Class -> the threshold with the highest F1. Classes without positive or without negative labels have none."""
    import numpy as np

    from medvlm.metrics.rank import choose_threshold

    items: dict[str, list[tuple[float, bool]]] = {}
    for answer, truth in zip(answers, truths, strict=True):
        if parse(answer, truth):
            for name, p, label in list_known(answer, truth):
                items.setdefault(name, []).append((p, label))
    chosen = {name: choose_threshold(np.array(of, dtype=float)) for name, of in items.items()}
    return {name: threshold for name, threshold in chosen.items() if threshold is not None}


# --- columns ----------------------------------------------------------------------------------------


def _score_and_label(answer: Any, truth: Any) -> Columns:
    return {name: (p, float(label)) for name, p, label in list_known(answer, truth)}


def _count(is_chosen: bool, answer: Any, truth: Any, points: Mapping[str, float]) -> Columns:
    """(found, false alarm, missed) of the classes whose threshold was chosen on validation samples, or of the
    others."""
    return {
        each.name: (
            float(each.is_told and each.is_there),
            float(each.is_told and not each.is_there),
            float(each.is_there and not each.is_told),
        )
        for each in decide(answer, truth, points)
        if (each.threshold is not None) == is_chosen
    }


def _true_and_told(answer: Any, truth: Any, points: Mapping[str, float]) -> Columns:
    """Numbers of classes where they exclude each other; else 1 for present and 0 for absent, of each class."""
    if not truth.exclusive:
        return {each.name: (float(each.is_there), float(each.is_told)) for each in decide(answer, truth, points)}
    found = parse(answer, truth)
    told = find_most_probable(found) if found else None
    return {"": (float(truth.labels.index(True)), NO_CLASS if told is None else float(told))}


def _true_and_told_in_order(answer: Any, truth: Any, points: Mapping[str, float]) -> Columns:
    """An answer that names no class counts as the class that is farthest from the true one."""
    last = len(truth.classes) - 1.0
    columns = _true_and_told(answer, truth, points)
    return {
        name: (true, told if told != NO_CLASS else 0.0 if true > last / 2 else last)
        for name, (true, told) in columns.items()
    }


def _square(answer: Any, truth: Any) -> Columns:
    return {name: ((p - label) ** 2, 1.0) for name, p, label in list_known(answer, truth)}


def _spread_gap(answer: Any, truth: Any) -> Columns:
    from medvlm.metrics.calibration import spread_gap

    return {name: spread_gap(p, float(label)) for name, p, label in list_known(answer, truth)}


# --- statistics -------------------------------------------------------------------------------------


def _auroc(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    from medvlm.metrics.rank import auroc

    return auroc(items_NK, times_RN)


def _average_precision(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    from medvlm.metrics.rank import average_precision

    return average_precision(items_NK, times_RN)


def _sensitivity(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    from medvlm.metrics.rank import sensitivity_at

    return sensitivity_at(SPECIFICITY, items_NK, times_RN)


def _f1(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    from medvlm.metrics.f1 import f1

    return f1(items_NK, times_RN)


def _kappa(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    from medvlm.metrics.agreement import kappa

    return kappa(items_NK, times_RN)


def _quadratic_kappa(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    from medvlm.metrics.agreement import quadratic_kappa

    return quadratic_kappa(items_NK, times_RN)


def _calibration_error(totals_RK: np.ndarray) -> np.ndarray:
    from medvlm.metrics.calibration import calibration_error

    return calibration_error(totals_RK)


def _deviation(items_NK: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    from medvlm.metrics.calibration import measure_deviation

    return measure_deviation(items_NK)


# --- which questions a measure needs ----------------------------------------------------------------


def _list_sides(items_NK: np.ndarray) -> Groups:
    """Of `_score_and_label`: the positive and the negative questions."""
    return items_NK[:, 1] == 1, items_NK[:, 1] == 0


def _list_positives(items_NK: np.ndarray) -> Groups:
    """Of `_count`: the positive questions."""
    return (items_NK[:, 0] + items_NK[:, 2] > 0,)


def _list_classes(items_NK: np.ndarray) -> Groups:
    """Of `_true_and_told`: the questions of the commonest class, and the others."""
    ((commonest, _),) = Counter(items_NK[:, 0].tolist()).most_common(1)
    return items_NK[:, 0] == commonest, items_NK[:, 0] != commonest


def _is_ordered(template: str, truth: Any) -> bool:
    return bool(truth.ordered)


_AGREEMENT = Measure(
    "kappa",
    GROUP,
    AtPoints(_true_and_told),
    statistic=OfItems(_kappa),
    needs=_list_classes,
    by_template=True,
    by_class=True,
    words="Cohen's kappa",
    bounds=(-1.0, 1.0),
)
_RANKING = Measure(
    "auroc",
    GROUP,
    _score_and_label,
    statistic=OfItems(_auroc),
    needs=_list_sides,
    by_template=True,
    by_class=True,
    headline=True,
    words="AUROC",
)
_DECISION = Measure(
    "f1",
    GROUP,
    AtPoints(partial(_count, True)),
    statistic=OfItems(_f1),
    needs=_list_positives,
    by_template=True,
    by_class=True,
    headline=True,
    words="F1",
)
OF_DECISIONS = frozenset({"f1", "f1_at_0.5"})
"""Metrics whose best constant answer calls everything positive."""
MEASURES = (
    _RANKING,
    replace(_RANKING, metric="ap", statistic=OfItems(_average_precision), words="average precision"),
    replace(
        _RANKING,
        metric="sensitivity_at_0.9",
        statistic=OfItems(_sensitivity),
        headline=False,
        words=f"sensitivity at specificity {SPECIFICITY}",
    ),
    _DECISION,
    replace(_DECISION, metric="f1_at_0.5", columns=AtPoints(partial(_count, False)), words=f"F1 at {DEFAULT}"),
    _AGREEMENT,
    replace(
        _AGREEMENT,
        metric="kappa_quadratic",
        columns=AtPoints(_true_and_told_in_order),
        is_about=_is_ordered,
        statistic=OfItems(_quadratic_kappa),
        words="quadratic kappa",
    ),
    Measure("brier", GROUP, _square, better="lower", by_template=True, by_class=True, words="Brier score"),
    # A constant that knows how common a class is has almost none, so a comparison with it would say nothing.
    Measure(
        "ece",
        GROUP,
        _spread_gap,
        statistic=_calibration_error,
        better=None,
        by_template=True,
        by_class=True,
        words="calibration error",
        deviation=_deviation,
    ),
)
