"""Answers from a linear classifier on the vectors of a frozen encoder, fitted on the training samples.

The classifier is multinomial logistic regression with an L2 penalty, as in scikit-learn (its C is 1 by default).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medvlm.core.protocols import Record, Row, Split
from medvlm.evaluate.protocols import _vectors

NEEDS = "represent"
BASELINES = (_vectors.BASELINE,)
NOTHING = "no question with a short answer and an image"
BY_NAME_ONLY = True
FORM = _vectors.FORM
can_ask = _vectors.can_ask
merge = _vectors.merge
list_parts = partial(_vectors.list_parts, "linear_probe")


class Config(_vectors.FittedConfig):
    kind: Literal["linear_probe"] = "linear_probe"
    c: float = Field(1.0, gt=0)
    """Inverse strength of the penalty."""


def ask(config: Config, model: Any, split: Split) -> Iterator[Record]:
    return _vectors.ask(config, model, split, partial(classify, config.c))


def classify(c: float, train_NE: np.ndarray, answers: Sequence[str], test_ME: np.ndarray) -> list[str]:
    names = sorted(set(answers))
    weights_AE, bias_A = fit(c, train_NE, np.array([names.index(answer) for answer in answers]), len(names))
    return [names[n] for n in (test_ME @ weights_AE.T + bias_A).argmax(axis=1)]


def fit(c: float, vectors_NE: np.ndarray, classes_N: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(weights [A, E], bias [A]) that minimise c * sum of cross-entropies + |weights|^2 / 2."""
    from scipy.optimize import minimize  # half a second
    from scipy.special import log_softmax, softmax

    width, rows = vectors_NE.shape[1], np.arange(len(classes_N))

    def lose(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights_AE, bias_A = flat[: count * width].reshape(count, width), flat[count * width :]
        logits_NA = vectors_NE @ weights_AE.T + bias_A
        loss = -c * log_softmax(logits_NA, axis=1)[rows, classes_N].sum() + 0.5 * (weights_AE**2).sum()
        slope_NA = c * softmax(logits_NA, axis=1)
        slope_NA[rows, classes_N] -= c
        slope_AE = slope_NA.T @ vectors_NE + weights_AE
        return float(loss), np.concatenate([slope_AE.ravel(), slope_NA.sum(axis=0)])

    start = np.zeros(count * (width + 1))
    best = minimize(lose, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-8}).x
    return best[: count * width].reshape(count, width), best[count * width :]


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    return _vectors.rows_of("linear_probe", records, settings)
