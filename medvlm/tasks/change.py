"""What has changed since an earlier study: `effusion: worsened; edema: resolved`, or `no change`.

An answer earns the findings whose change it names rightly, divided by max(number named, number true), so that neither
many nor few pay. `no change` is right where nothing changed, and nowhere else. The words are those in which
radiologists compare studies: improved, stable and worsened, as in Chest ImaGenome, with `new` and `resolved`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, average
from medvlm.core.sample import Medium
from medvlm.tasks._made_up import draw_answer, make_question
from medvlm.tasks._negation import find_denials, is_doubtful
from medvlm.tasks._words import is_too_long, normalise

if TYPE_CHECKING:
    import numpy as np

GLUE, NOTHING = "; ", "no change"
CHANGES = {
    "new": ("newly seen", "newly developed", "has developed", "has appeared"),
    "worsened": ("worse", "worsening", "increased", "increasing", "larger", "progressed", "progression", "more severe"),
    "stable": ("unchanged", "the same", "persistent", "not changed", "no change", "without change"),
    "improved": ("better", "improving", "improvement", "decreased", "decreasing", "smaller", "less severe"),
    "resolved": ("gone", "cleared", "no longer seen", "has disappeared"),
}
"""Word that is written -> others that say the same."""
_WORDS = {normalise(word): name for name, others in CHANGES.items() for word in (name, *others)}
_BREAK = re.compile(r"[;,.\n]|\b(?:while|whereas|but)\b")
Entry = tuple[str, tuple[str, ...]]
"""Name of a finding and its synonyms."""


@dataclass(frozen=True)
class Truth(sample.Truth):
    """changes: (finding, word of CHANGES) of all findings that are asked about and there now or before. entries: the
    findings that an answer may name."""

    changes: tuple[tuple[str, str], ...] = ()
    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        known = {name for name, _ in self.entries}
        for name, word in self.changes:
            if name not in known or word not in CHANGES:
                raise DataError(f"{name}: {word}; expected one of {', '.join(known)}, and {', '.join(CHANGES)}")
        if not self.answer:
            object.__setattr__(self, "answer", GLUE.join(f"{name}: {word}" for name, word in self.changes) or NOTHING)


class Config(Base):
    kind: Literal["change"]
    findings: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Finding -> its synonyms."""

    @field_validator("findings")
    @classmethod
    def _is_unambiguous(cls, findings: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        forms = Counter(normalise(each) for name, synonyms in findings.items() for each in {name, *synonyms})
        if twice := [form for form, count in forms.items() if count > 1 or form in _WORDS]:
            raise ValueError(f"{twice[0]!r} is the name of two findings, or a word of change; name each differently")
        return findings


TITLE = "Changes"


# --- text -------------------------------------------------------------------------------------------


def from_text(text: str, config: Config) -> Truth | None:
    """None for a text that cannot be read, see `parse`."""
    entries = tuple(config.findings.items())
    found = parse(text, Truth(entries=entries))
    if found is None:
        return None
    return Truth(changes=tuple((name, found[name]) for name, _ in entries if name in found), entries=entries)


@lru_cache(maxsize=4096)
def parse(text: str, truth: Truth) -> dict[str, str] | None:
    """Finding -> word. {} where it says that nothing changed. None for a text that names no change, a change of
    nothing, two of one finding or in one part of a sentence, and for what is denied or doubted."""
    if is_too_long(text, truth):
        return None
    names = {normalise(each): name for name, synonyms in truth.entries for each in (name, *synonyms)}
    found: dict[str, str] = {}
    says_nothing = False
    for part in _BREAK.split(text.replace(":", " ")):
        plain = normalise(part)
        words = {_WORDS[form] for form in _find(plain, _WORDS)}
        own = {names[form] for form in _find(plain, names)}
        is_denied = find_denials(" ".join(_compile(_WORDS).sub(" ", plain).split()))
        if is_doubtful(plain) or is_denied or len(words) > 1 or (own and not words):
            return None
        word = next(iter(words), "")
        if word and not own and word != "stable":  # of what?
            return None
        says_nothing = says_nothing or (not own and word == "stable")
        for name in own:
            if found.setdefault(name, word) != word:
                return None
    return found if found or says_nothing else None


def _find(plain: str, forms: dict[str, str]) -> list[str]:
    return _compile(forms).findall(plain)


def _compile(forms: Iterable[str]) -> re.Pattern[str]:
    """Any of the forms as words of their own, the longest first, so that `not changed` is not read as `changed`."""
    pattern = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    return re.compile(rf"(?<!\S)(?:{pattern})(?!\S)")


def is_formatted(answer: str, truth: Truth) -> bool:
    """`effusion: worsened; edema: resolved`, each finding once, or `no change`."""
    pairs = [tuple(pair.split(": ")) for pair in answer.split(GLUE)]
    known = {name for name, _ in truth.entries}
    is_list = all(len(pair) == 2 and pair[0] in known and pair[1] in CHANGES for pair in pairs)
    return answer == NOTHING or (is_list and len({pair[0] for pair in pairs}) == len(pairs))


# --- score and measures -----------------------------------------------------------------------------


def score(answer: str, truth: Truth) -> float:
    found, true = parse(answer, truth), dict(truth.changes)
    if found is None or not true or not found:
        return float(found == true)
    return sum(true.get(name) == word for name, word in found.items()) / max(len(found), len(true))


def is_exact(answer: str, truth: Truth) -> float:
    return float(parse(answer, truth) == dict(truth.changes))


def is_unreadable(answer: str, truth: Truth) -> float:
    return float(parse(answer, truth) is None)


MEASURES = (
    Measure("changes_right", "change", average(score), by_template=True, headline=True, words="changes that are right"),
    Measure("exact", "change", average(is_exact), by_template=True, headline=True),
    Measure("unreadable", "change", average(is_unreadable), better=None),
)


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """Of the answers in `truths`, the one with the best value of the measure."""
    judge = is_exact if measure is not None and measure.metric == "exact" else score
    frequent = [answer for answer, _ in Counter(truth.answer for truth in truths).most_common(60)]
    return max(frequent, key=lambda answer: sum(judge(answer, truth) for truth in truths))


# --- rehearsal --------------------------------------------------------------------------------------

_ENTRIES: tuple[Entry, ...] = (("effusion", ("pleural effusion",)), ("edema", ("oedema",)), ("opacity", ()))


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth]:
    question = make_question(rng, "change")
    number, _ = draw_answer(rng)
    word = ("", "worsened", "stable", "improved")[number]
    return question, Truth(changes=(("effusion", word),) if word else (), entries=_ENTRIES)


_TWO = Truth(changes=(("effusion", "worsened"), ("edema", "resolved")), entries=_ENTRIES)
_SAME = Truth(entries=_ENTRIES)

EXAMPLES = [
    ("effusion: worsened; edema: resolved", _TWO, 1.0),
    ("The pleural effusion has increased, and the edema is no longer seen.", _TWO, 1.0),
    ("edema: resolved", _TWO, 1 / 2),
    ("effusion: worsened; edema: improved", _TWO, 1 / 2),
    ("effusion: worsened; edema: resolved; opacity: new", _TWO, 2 / 3),
    ("effusion: improved", _TWO, 0.0),
    ("no change", _TWO, 0.0),
    ("no change", _SAME, 1.0),
    ("Unchanged.", _SAME, 1.0),
    ("effusion: worsened", _SAME, 0.0),
    # Several words for one finding, what is denied or doubted, and none.
    ("effusion: worsened, effusion: improved, edema: resolved", _TWO, 0.0),
    ("effusion worsened or improved, edema resolved", _TWO, 0.0),
    ("effusion has not worsened, edema has not resolved", _TWO, 0.0),
    ("effusion, edema: worsened stable improved resolved", _TWO, 0.0),
    ("worsened; resolved", _TWO, 0.0),
    ("effusion; edema", _TWO, 0.0),
    ("", _SAME, 0.0),
]
