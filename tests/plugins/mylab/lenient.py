"""A scoring rule: an answer is right if the reference stands in it."""

from collections.abc import Sequence
from typing import Any, Literal

from medvlm.core.measure import Measure, average
from medvlm.core.scoring import RuleConfig
from medvlm.core.tasks import is_scored

SOURCE = "mylab, unpublished"


class Config(RuleConfig):
    kind: Literal["mylab.lenient"] = "mylab.lenient"


def list_measures(config: Config) -> Sequence[Measure]:
    return (Measure("accuracy", config.kind, average(score), lambda template, truth: is_scored(truth)),)


def score(answer: str, truth: Any) -> float:
    return float(truth.answer.lower() in answer.lower())
