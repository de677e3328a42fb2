"""What is measured of answers: a metric over the questions of a task, with its interval and its baselines.

Axes: N questions, K columns of a question, R draws of the questions (see metrics/bootstrap.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from medvlm.core.sample import Truth

if TYPE_CHECKING:
    import numpy as np

ToColumns = Callable[[Any, Any], tuple[float, ...]]
"""(answer, truth of the task) -> the numbers that a question adds to its measure."""


ToColumnsByClass = Callable[[Any, Any], dict[str, tuple[float, ...]]]
"""As ToColumns, for each of the classes that a question is about."""


@dataclass(frozen=True)
class OfItems:
    """A statistic that needs the single questions, such as an AUROC.

    metric: (items_NK, times_RN) -> metric_R, where draw r holds question n times_RN[r, n] times. It equals the metric
    of the questions repeated so often, and NaN where a draw does not define it (an AUROC without a positive).
    """

    metric: Callable[[np.ndarray, np.ndarray], np.ndarray]


Statistic = Callable[["np.ndarray"], "np.ndarray"] | OfItems
"""Sums of the columns over the drawn questions [R, K] -> the metric [R]; or a function of the questions."""


def mean(totals_RK: np.ndarray) -> np.ndarray:
    """Of columns (value, 1)."""
    return totals_RK[:, 0] / totals_RK[:, 1]


def average(score: Callable[[Any, Any], float]) -> ToColumns:
    """Columns whose statistic `mean` is the mean of a score."""
    return lambda answer, truth: (float(score(answer, truth)), 1.0)


def is_any(template: str, truth: Truth) -> bool:
    return True


@dataclass(frozen=True)
class Measure:
    """A row of the results: of all questions of its task that it is about.

    metric, group: what the row is called, `mae` of `count`. Tasks that have a measure of the same names share the row:
    `accuracy` of `vqa` is about choices and short open answers alike, each judged by its own task. Such measures agree
    in everything but `columns` and `is_about`.
    is_about: (template, truth) -> whether a question of the task counts.
    better: None where a row only informs; then there is no paired difference.
    by_template: there is a row for each template as well. by_class: the columns are ToColumnsByClass. A class of a
    template has a metric and a row of its own, and the others are means over these classes, however often each is asked
    about (macro averages). headline: it stands on top of the report.
    words: what the report calls it, where that is not `metric`.
    bounds: the least and the largest value that the metric can have, by default those of a mean of scores; None where
    it has none, as an error without a limit. The intervals of few patients need them.
    """

    metric: str
    group: str
    columns: ToColumns | ToColumnsByClass
    is_about: Callable[[str, Any], bool] = is_any
    better: Literal["higher", "lower"] | None = "higher"
    by_template: bool = False
    statistic: Statistic = mean
    headline: bool = False
    words: str = ""
    by_class: bool = False
    bounds: tuple[float, float] | None = (0.0, 1.0)
