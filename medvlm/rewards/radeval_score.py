"""A metric of the package RadEval for reports of chest radiographs in English: RadGraph-F1, CheXbert, GREEN, ...

RadEval runs in a process of its own, in an environment of its own, as in evaluation (evaluate/radeval.py). A score that
comes too late, or none, leaves this reward out for the answers to that question; see _outside.py for when a run stops.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import Any

from pydantic import Field, field_validator

from medvlm.core.contracts import Case, RewardConfig
from medvlm.core.errors import RecipeError, did_you_mean
from medvlm.core.radeval_config import KEYS, LOWEST
from medvlm.core.tasks import list_rubrics
from medvlm.rewards._outside import Missing
from medvlm.rewards._radeval import RadEvalProcess
from medvlm.tasks._words import is_too_long

READS_CASE = True
WAITS = True
WHERE = "rewards.radeval_score"
METRIC_OF = {key: metric for metric, keys in KEYS.items() for key in keys}
AT_ONCE = 64
"""Reports that are sent at a time."""


class Config(RewardConfig):
    python: str
    """The Python interpreter of its environment, see evaluate.radeval."""
    score: str = "radgraph_partial"
    """What RadEval gives for each report: radgraph_simple, radgraph_partial, radgraph_complete, green, crimson, ..."""
    timeout_s: float = Field(600.0, gt=0)
    """How long it may take for the reports that are sent at a time, with loading its weights."""

    @field_validator("score")
    @classmethod
    def _is_known(cls, score: str) -> str:
        if score not in METRIC_OF:
            raise ValueError(f"{score!r}: unknown{did_you_mean(score, METRIC_OF)} (accepts {', '.join(METRIC_OF)})")
        return score


def applies(case: Case, config: Config) -> bool:
    return bool(case.question) and f"radeval_{config.score}" in list_rubrics(case.truth)


def start(config: Config) -> None:
    _open(config.python, config.score, config.timeout_s).start()


def score(completion: str, case: Case, config: Config) -> float:
    """Scaled to [0, 1], if its lowest value is below 0."""
    if not completion.strip() or is_too_long(completion, case.truth):
        return 0.0
    lowest = LOWEST.get(config.score, 0.0)
    found = _open(config.python, config.score, config.timeout_s).score(case.truth.answer, completion)
    return min(1.0, max(0.0, (found - lowest) / (1 - lowest)))


@lru_cache
def _open(python: str, key: str, timeout_s: float) -> _Scorer:
    return _Scorer(python, key, timeout_s)


class _Asked:
    """A report. value: once it is there. error: why there is none."""

    def __init__(self, reference: str, text: str):
        self.reference, self.text = reference, text
        self.value, self.error = math.nan, ""
        self.is_done = False


class _Scorer:
    """Several threads may ask: one of them sends what all of them wait for."""

    def __init__(self, python: str, key: str, timeout_s: float):
        self.python, self.key, self.timeout_s, self.missing = python, key, timeout_s, Missing(WHERE)
        self._process: RadEvalProcess | None = None
        self._sending, self._waiting, self._queue = threading.Lock(), list[_Asked](), threading.Lock()

    def start(self) -> None:
        """Raises RecipeError for no interpreter, and no RadEval."""
        with self._sending:
            self._process = self._process or RadEvalProcess(self.python, WHERE)

    def score(self, reference: str, text: str) -> float:
        own = _Asked(reference, text)
        with self._queue:
            self._waiting.append(own)
        while not own.is_done:
            with self._sending:
                if not own.is_done:
                    self._send()
        if own.error:
            raise self.missing.give_up(own.error)
        self.missing.count_score()
        return own.value

    def _send(self) -> None:
        with self._queue:
            asked, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
        try:
            values, error = self._ask([each.reference for each in asked], [each.text for each in asked]), ""
        except RecipeError as reason:
            values, error = [math.nan] * len(asked), str(reason)
        for each, value in zip(asked, values, strict=True):
            each.value, each.error = value, error or ("" if math.isfinite(value) else "RadEval gives no number")
            each.is_done = True

    def _ask(self, references: list[str], texts: list[str]) -> list[float]:
        """Raises RecipeError for no interpreter, no RadEval, no reply in time, and a reply without the scores."""
        self._process = self._process or RadEvalProcess(self.python, WHERE)
        asked = {"metric": METRIC_OF[self.key], "references": references, "texts": texts}
        try:
            reply: dict[str, Any] = self._process.ask(asked, self.timeout_s)
        except RecipeError:
            self._stop()
            raise
        values = reply.get("scores", {}).get(self.key, ())
        if "error" in reply or len(values) != len(texts):
            self._stop()
            raise RecipeError(f"{WHERE}: {reply.get('error') or f'RadEval gives no {self.key} for each report'}")
        return [math.nan if value is None else float(value) for value in values]

    def _stop(self) -> None:
        """The next report starts it again."""
        if self._process:
            self._process.stop()
            self._process = None


EXAMPLES: list[tuple[str, Case, float]] = []
"""None without RadEval: see tests/rewards/test_outside.py."""
