"""The error for findings: their kinds, where they are and how many, never a value."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from medvlm.core.card import Checked
from medvlm.core.errors import DataError

_SHOWN = 6
"""Kinds of findings that a message names; the others are counted."""


class Refusal(DataError):
    """words: what the card would have to declare (phi.checked). found: kind of finding -> number."""

    def __init__(self, message: str, words: Collection[Checked], found: Mapping[str, int]) -> None:
        super().__init__(message)
        self.words, self.found = frozenset(words), dict(found)


def make_refusal(what: str, found: Mapping[str, int], words: Collection[Checked], remedy: str) -> Refusal:
    """An error that lists the findings.

    what: the checked text or header, e.g. `its header`. found: kind of finding -> number; kinds are medvlm's own words,
    such as a keyword and its tag. words: what the card would have to declare. remedy: the alternative, with programs
    that do it.
    """
    named = [f"{kind} x {count}" if count > 1 else kind for kind, count in list(found.items())[:_SHOWN]]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return Refusal(
        f"{what} may identify a person: {', '.join(named)}{more}; {remedy}, or add {', '.join(sorted(words))} to"
        " phi.checked of the card if people have checked it",
        words,
        found,
    )
