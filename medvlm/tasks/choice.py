"""One of several named answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, OfJudge, average
from medvlm.core.sample import Medium
from medvlm.core.tasks import Choices, Drawing
from medvlm.tasks import _words
from medvlm.tasks._choices import read_choice
from medvlm.tasks._made_up import draw_answer, make_question
from medvlm.tasks._words import normalise

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Truth(sample.Truth):
    """`answer` is one of `choices`. label: what is asked about, where that is one thing of several. options: what the
    choices stand for if they are letters, else empty; only published scoring rules read them."""

    choices: tuple[str, ...] = ()
    label: str = ""
    options: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Without `options` where there are none, so that shards stay the same."""
        record = super().to_json()
        return record if self.options else {name: value for name, value in record.items() if name != "options"}


class Config(Base):
    kind: Literal["choice"]
    choices: Choices = Field(min_length=2)
    """A text is one of these, whatever its case; any other is no answer."""


def check_choices(choices: Sequence[str]) -> None:
    """Raises DataError for two choices that are read alike, or one that cannot be read: their questions could not be
    scored."""
    found: dict[str, str] = {}
    for choice in choices:
        form = normalise(choice)
        if not form:
            raise DataError("a choice is empty; name every choice")
        if form in found:
            raise DataError(
                f"choices {found[form]!r} and {choice!r} read alike: case, articles and punctuation are not told apart;"
                " name them differently, or keep one of them"
            )
        found[form] = choice


def check(truth: Truth, media: Sequence[Medium]) -> None:
    check_choices(truth.choices)
    if truth.options and len(truth.options) != len(truth.choices):
        raise DataError(f"{len(truth.options)} options of {len(truth.choices)} choices; expected one for each")


TITLE = _words.TITLE
best_constant = _words.most_frequent


def parse(text: str, truth: Truth) -> str | None:
    """See `_choices.read_choice`."""
    return read_choice(text, truth.choices)


def score(answer: str, truth: Truth) -> float:
    """1 where the right choice is named and no other, else 0."""
    found = parse(answer, truth)
    if found is None:
        return 0.0
    return float(found == truth.answer or (truth.answer not in truth.choices and is_alike(found, truth.answer)))


def is_alike(one: str, other: str) -> bool:
    return normalise(one) == normalise(other)


def list_choices(truth: Truth) -> Sequence[str]:
    return truth.choices


def is_formatted(answer: str, truth: Truth) -> bool:
    """One of the choices, as written and nothing else."""
    return answer in truth.choices


MEASURES = (
    Measure("accuracy", _words.GROUP, average(score), by_template=True, headline=True),
    Measure("accuracy_closed", _words.GROUP, average(score), headline=True),
    Measure("judged_closed", _words.GROUP, OfJudge("closed"), headline=True),
)


def from_text(text: str, config: Config) -> Truth | None:
    choice = {each.casefold(): each for each in config.choices}.get(text.casefold())
    return Truth(choice, config.choices) if choice else None


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth]:
    question = make_question(rng, "choice")
    _, answer = draw_answer(rng)
    return question, Truth(answer, ("yes", "no"))


def describe(answer: Any, truth: Truth) -> Drawing:
    others = ", ".join(choice for choice in truth.choices if choice != truth.answer)
    return Drawing(truth.answer, aside=f"not {others}" if others else "")


_SIDE = Truth("left", ("left", "right", "both"))
_LETTER = Truth("B", ("A", "B", "C"))

EXAMPLES = [
    ("left", _SIDE, 1.0),
    (" LEFT.\n", _SIDE, 1.0),
    ("The lesion is on the left.", _SIDE, 1.0),
    ("B", _LETTER, 1.0),
    ("right", _SIDE, 0.0),
    # Naming more than one, all of them, or none is not an answer.
    ("left or right", _SIDE, 0.0),
    ("left, not right, or right", _SIDE, 0.0),
    ("left right both", _SIDE, 0.0),
    ("A B C", _LETTER, 0.0),
    ("leftright", _SIDE, 0.0),
    ("", _SIDE, 0.0),
]
