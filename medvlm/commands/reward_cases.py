"""`medvlm tasks test FILE`: scores answers of your own, and compares with what you expect.

```yaml
rewards: {choice: 0.9, format: 0.1}          # what is tested; without it, the task of each truth
cases:
  - {answer: left,          truth: &side {task: choice, answer: left, choices: [left, right]}, score: 1}
  - {answer: right,         truth: *side, is: wrong}
  - {answer: left or right, truth: *side, is: cheat}
```

`score` is the exact score. `is: right` earns at least as much as every other answer to the same truth, and `is: cheat`
at most as much as each of its wrong answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from medvlm.core.config import Config, permit
from medvlm.core.contracts import Case, RewardConfig
from medvlm.core.document import place_of, read_yaml
from medvlm.core.errors import DataError
from medvlm.core.problems import validate
from medvlm.core.sample import UnknownTruth, truth_from_json
from medvlm.rewards._compose import Composer
from medvlm.rewards._config import Rewards

NEAR = 1e-6


class OneCase(Config):
    answer: str
    truth: dict[str, Any]
    """As in a shard: `task`, and the fields of its truth, with coordinates as the model writes them."""
    score: float | None = None
    is_: Literal["", "right", "wrong", "cheat"] = Field("", alias="is")
    steps: dict[str, str] = {}
    source: str = ""
    image_gain: float | None = None
    question: str = ""

    @model_validator(mode="after")
    def _expects_something(self) -> OneCase:
        if self.score is None and not self.is_:
            raise ValueError("expected `score`, or `is` with right, wrong or cheat")
        return self


class Cases(Config):
    plugins: tuple[str, ...] = ()
    rewards: Annotated[dict[str, RewardConfig], Rewards()] | None = None
    cases: tuple[OneCase, ...] = Field(min_length=1)


@dataclass(frozen=True)
class ScoredCase:
    """where: file, line and column. found: its score. parts: of each reward. wrong: what is not as expected; "" if all
    is."""

    where: str
    answer: str
    found: float
    parts: dict[str, float]
    wrong: str

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value:.3g}" for name, value in self.parts.items())
        text = self.answer if len(self.answer) <= 60 else f"{self.answer[:57]}..."
        end = f"FAILED {self.wrong}" if self.wrong else "ok"
        return f"{self.where} {text!r}: {self.found:.4g} ({parts}) {end}"


def check_cases(file: Path) -> list[ScoredCase]:
    """Raises RecipeError for a file that is not as it should be, DataError for a truth that cannot be read."""
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; see `medvlm tasks test --help` for what it has")
    document = read_yaml(file, str(file))
    own = document.data.get("plugins") if isinstance(document.data, dict) else None
    permit(own if isinstance(own, list) else ())
    read: Cases = validate(Cases, document, {"plugins": tuple(own or ())})
    places = [place_of(("cases", number), document.marks) for number in range(len(read.cases))]
    scored = [_score(read, case, where) for case, where in zip(read.cases, places, strict=True)]
    return [
        ScoredCase(where, case.answer, total, parts, "; ".join(_find_faults(read, number, [s for s, _ in scored])))
        for number, (case, where, (total, parts)) in enumerate(zip(read.cases, places, scored, strict=True))
    ]


def _score(read: Cases, asked: OneCase, where: str) -> tuple[float, dict[str, float]]:
    try:
        truth = truth_from_json(asked.truth)
    except (DataError, TypeError, ValueError, KeyError) as reason:
        raise DataError(f"{where} truth: {reason}") from None
    if isinstance(truth, UnknownTruth):
        raise DataError(f"{where} truth: there is no task {truth.task!r}; list its package in `plugins`")
    composer = Composer(read.rewards or {truth.task: 1})
    case = Case(truth, asked.steps, asked.source, asked.image_gain, asked.question)
    if not composer.applies(case):
        raise DataError(f"{where}: none of {', '.join(composer.weights)} can judge it; add a reward that can")
    return composer.score(asked.answer, case)


def _find_faults(read: Cases, number: int, found: list[float]) -> Iterator[str]:
    case, own = read.cases[number], found[number]
    of_kind: dict[str, list[float]] = {}
    for other, score in zip(read.cases, found, strict=True):
        if other.truth == case.truth:
            of_kind.setdefault(other.is_, []).append(score)
    if case.score is not None and abs(case.score - own) > NEAR:
        yield f"expected {case.score:g}"
    if case.is_ == "right" and own < max(score for scores in of_kind.values() for score in scores) - NEAR:
        yield "another answer to it earns more than this right one"
    if case.is_ == "cheat" and own > min(of_kind.get("wrong", [0.0])) + NEAR:
        yield f"a cheat earns more than an honest wrong answer ({min(of_kind.get('wrong', [0.0])):g})"
