"""Answers from the nearest neighbours among the training samples, by the vectors of an encoder alone.

Source: Wu et al. 2018, https://arxiv.org/abs/1805.01978, section 3.4: neighbours vote with exp(cosine / temperature).
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
list_parts = partial(_vectors.list_parts, "knn")


class Config(_vectors.FittedConfig):
    kind: Literal["knn"] = "knn"
    neighbours: int = Field(20, gt=0)
    temperature: float = Field(0.07, gt=0)


def ask(config: Config, model: Any, split: Split) -> Iterator[Record]:
    return _vectors.ask(config, model, split, partial(vote, config.neighbours, config.temperature))


def vote(
    neighbours: int, temperature: float, train_NE: np.ndarray, answers: Sequence[str], test_ME: np.ndarray
) -> list[str]:
    """The answer with the largest weight; of equal ones the first by name."""
    names = sorted(set(answers))
    is_name_NA = np.array(answers)[:, None] == np.array(names)
    found: list[str] = []
    for vector_E in test_ME:
        similarity_N = train_NE @ vector_E
        nearest = np.argsort(-similarity_N, kind="stable")[:neighbours]
        weights_A = np.exp((similarity_N[nearest] - 1) / temperature) @ is_name_NA[nearest]
        found.append(names[int(weights_A.argmax())])
    return found


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    return _vectors.rows_of("knn", records, settings)
