"""Finds text in a report, a question or an answer that could identify a person. Findings are counted, never shown.

Follows 45 CFR 164.514(b)(2): names, addresses, dates with a day, ages above 89, telephone, record, account, licence and
device numbers, e-mail, web and network addresses. Names are found by their context (a title, a label, a signature), in
English, German, French, Spanish, Italian, Portuguese, Dutch and Chinese. docs/data.md lists what is not found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cache, lru_cache

from medvlm.core.card import Checked
from medvlm.io.phi.dates import DATES
from medvlm.io.phi.identifiers import count_identifiers
from medvlm.io.phi.names import NAMES
from medvlm.io.phi.numbers import NUMBERS
from medvlm.io.phi.plain_text import blank_placeholders, spell_plainly
from medvlm.io.phi.refusal import make_refusal


@cache
def _compile_patterns() -> dict[str, tuple[re.Pattern[str], ...]]:
    """Kind of finding -> patterns. Compiled when the first text is checked, because it takes half a second, and every
    decoder process of the packer imports this module."""
    return {
        kind: tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)
        for kind, patterns in {**DATES, **NUMBERS, **NAMES}.items()
    }


def count_findings(text: str, identifiers: Iterable[str] = (), public: Collection[str] = ()) -> Counter[str]:
    """Kind of finding -> number. identifiers: of the sample in its archive, which its text must not contain. public:
    words that are none, see identifiers.py."""
    found = Counter(_count_by_pattern(text))
    found["identifier of the archive"] = count_identifiers(text, identifiers, public)
    return +found


@lru_cache(maxsize=1024)  # many questions share a few wordings
def _count_by_pattern(text: str) -> dict[str, int]:
    text, others = blank_placeholders(spell_plainly(text))
    found = {kind: _count_places(text, patterns) for kind, patterns in _compile_patterns().items()}
    return {**found, "brackets that hold no placeholder": others}


def _count_places(text: str, patterns: Iterable[re.Pattern[str]]) -> int:
    """Places where any of the patterns matches; matches that overlap are one place."""
    spans = sorted(match.span() for pattern in patterns for match in pattern.finditer(text))
    end = num = 0
    for start, stop in spans:
        num += start >= end
        end = max(end, stop)
    return num


def check(
    what: str,
    text: str,
    checked: Collection[Checked] = (),
    identifiers: Iterable[str] = (),
    public: Collection[str] = (),
) -> None:
    """Raises DataError with kinds and counts for a text that could identify a person. what: the name of the text in the
    error, e.g. `its report`. identifiers, public: as in count_findings."""
    if "text" not in checked and (found := count_findings(text, identifiers, public)):
        raise make_refusal(what, found, {"text"}, "de-identify it, e.g. with presidio or philter")
