"""How a finding is said: what kind, where and how many, never a value."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from medvlm.core.card import Checked
from medvlm.core.errors import DataError

_SHOWN = 6
"""Kinds of findings that a message names; the others are counted."""


def make_refusal(what: str, found: Mapping[str, int], words: Collection[Checked], remedy: str) -> DataError:
    """what: was looked at, e.g. `its header`. found: kind -> how often; kinds are ours, such as a keyword and its tag.

    words: what the card would have to declare. remedy: what else to do, with the programs that do it.
    """
    named = [f"{kind} x {count}" if count > 1 else kind for kind, count in list(found.items())[:_SHOWN]]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return DataError(
        f"{what} may identify a person: {', '.join(named)}{more}; {remedy}, or add {', '.join(sorted(words))} to"
        " phi.checked of the card where people have checked it"
    )
