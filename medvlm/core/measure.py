"""Measures of answers: a metric over the questions of a task, with its interval and baselines.

Axes: N questions, K columns of a question, R draws of the questions (see metrics/bootstrap.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from medvlm.core.sample import Truth

if TYPE_CHECKING:
    import numpy as np

ToColumns = Callable[[Any, Any], tuple[float, ...]]
"""(answer, truth of the task) -> the numbers that a question adds to the measure."""


ToColumnsByClass = Callable[[Any, Any], dict[str, tuple[float, ...]]]
"""Like ToColumns, for each of the classes that a question is about."""


@dataclass(frozen=True)
class OfCorpus:
    """Columns that depend on all questions: a word counts the more, the rarer it is in their answers (CIDEr).

    fit: all truths that the measure is about -> their ToColumns. Only for a measure that one task has.
    """

    fit: Callable[[Sequence[Any]], ToColumns]

    def __call__(self, answer: Any, truth: Any) -> tuple[float, ...]:
        """Fitted to this truth alone."""
        return self.fit([truth])(answer, truth)


@dataclass(frozen=True)
class AtPoints:
    """Columns that also depend on operating points, such as the threshold of each class.

    columns: like ToColumns or ToColumnsByClass, with the operating points of the question's template as a third
    argument (see Task.choose_points). {} where none were chosen.
    """

    columns: Callable[[Any, Any, Mapping[str, Any]], Any]

    def __call__(self, answer: Any, truth: Any) -> Any:
        return self.columns(answer, truth, {})

    def at(self, points: Mapping[str, Any]) -> Any:
        """The columns at these operating points."""
        return lambda answer, truth: self.columns(answer, truth, points)


@dataclass(frozen=True)
class OfJudge:
    """Columns of the score that a judge model gave to an answer, if there is a judge.

    rubric: by which it judged, a field of core/judge_config.Rubrics; `meteor`; or `radeval_KEY`, a number of the
    package RadEval. Answers without a score do not count."""

    rubric: str

    def __call__(self, score: float, truth: Any) -> tuple[float, ...]:
        return (score, 1.0)


@dataclass(frozen=True)
class ByTemplate:
    """Columns that also depend on the template of the question, as where an archive says in it what is closed.

    columns: like ToColumns, with the template as a third argument.
    """

    columns: Callable[[Any, Any, str], tuple[float, ...]]

    def __call__(self, answer: Any, truth: Any) -> tuple[float, ...]:
        return self.columns(answer, truth, "")

    def of(self, template: str) -> ToColumns:
        """The columns for questions of this template."""
        return lambda answer, truth: self.columns(answer, truth, template)


@dataclass(frozen=True)
class OfItems:
    """A statistic that needs the single questions, such as an AUROC.

    metric: (items_NK, times_RN) -> metric_R, where draw r holds question n times_RN[r, n] times. The result equals
    the metric of the repeated questions, and is NaN if a draw does not define it (an AUROC without a positive).
    """

    metric: Callable[[np.ndarray, np.ndarray], np.ndarray]


Statistic = Callable[["np.ndarray"], "np.ndarray"] | OfItems
"""Sums of the columns over the drawn questions [R, K] -> the metric [R]; or a function of the questions."""


def mean(totals_RK: np.ndarray) -> np.ndarray:
    """The mean, for columns (value, 1)."""
    return totals_RK[:, 0] / totals_RK[:, 1]


def average(score: Callable[[Any, Any], float]) -> ToColumns:
    """Columns whose statistic `mean` is the mean of a score."""
    return lambda answer, truth: (float(score(answer, truth)), 1.0)


def is_any(template: str, truth: Truth) -> bool:
    return True


@dataclass(frozen=True)
class Measure:
    """A row of the results, over all questions of its task that it is about.

    metric, group: the name of the row, `mae` of `count`. Tasks with measures of the same name share the row: `accuracy`
    of `vqa` is about both choices and short open answers, each judged by its own task. Such measures differ only in
    `columns` and `is_about`.
    is_about: (template, truth) -> whether a question of the task counts.
    better: None if the row is only informative; then there is no paired difference.
    by_template: whether there is also a row for each template.
    by_class: whether columns are ToColumnsByClass. Then each class of a template has its own row, and other rows are
    means over these classes, however often each is asked about (macro averages).
    headline: whether it is at the top of the report.
    words: the name in the report, if not `metric`.
    bounds: the smallest and the largest possible value of the metric, by default those of a mean of scores; None if
    unbounded, such as an error. The intervals of few patients need them.
    needs: columns [N, K] -> groups of questions, each bool [N], such as the positive and the negative ones, if the
    metric needs some of each. Its interval is as wide as the number of patients of the rarest group demands, however
    many others there are.
    deviation: items [N, K] -> a statistic of draws, by which the metric of a draw differs from that of these items at
    most. For a metric that chance makes larger, such as a distance: its interval reaches so far down, as one around the
    value would often lie above the truth.
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
    needs: Callable[[np.ndarray], Sequence[np.ndarray]] | None = None
    deviation: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]] | None = None


def fit_columns(measure: Measure, truths: Sequence[Any]) -> Any:
    """The columns of a measure; of a corpus, fitted to these truths."""
    return measure.columns.fit(truths) if isinstance(measure.columns, OfCorpus) else measure.columns
