"""A report in its sections: what was found, what it means, and what was known before."""

from __future__ import annotations

import re
from functools import lru_cache

FINDINGS, IMPRESSION, HISTORY = "findings", "impression", "history"
KINDS = (FINDINGS, IMPRESSION, HISTORY)
SECTIONS = (FINDINGS, IMPRESSION)
"""Sections that are compared one by one."""
_NAMES = {
    FINDINGS: "findings? and impressions?|findings? ?/ ?impressions?|(?:imaging |radiographic )?findings?"
    "|imaging notes|observations?",
    IMPRESSION: "impressions?|conclusions?|opinion|summary|interpretation",
    HISTORY: "(?:clinical |reason for )?(?:history|information|indications?|exam|examination|study)|presentation"
    "|comparisons?|technique|procedure",
}
_ANY_NAME = "|".join(f"(?P<{kind}>{names})" for kind, names in _NAMES.items())
_HEADING = re.compile(rf"(?:^|(?<=[.:;!?)])\s|\n)[\s#*]*(?:{_ANY_NAME})[ *]*:[*]*", re.IGNORECASE)


def list_sections(text: str) -> list[tuple[str, str]]:
    """Each section and its text, in order; first what stands before the first heading, as "". A heading is one of the
    common names with a colon, at the beginning of a line or sentence."""
    headings = list(_HEADING.finditer(text))
    starts = [0, *(heading.end() for heading in headings)]
    ends = [*(heading.start() for heading in headings), len(text)]
    kinds = ["", *(heading.lastgroup or "" for heading in headings)]
    return [(kind, text[start:end].strip()) for kind, start, end in zip(kinds, starts, ends, strict=True)]


@lru_cache(maxsize=4096)  # every measure reads the same texts
def read_sections(text: str) -> dict[str, str]:
    """Section -> its text; "" for what stands before the first heading. Sections of one kind are joined: indication,
    comparison and technique are `history`."""
    found: dict[str, list[str]] = {}
    for kind, part in list_sections(text):
        found.setdefault(kind, []).append(part)
    return {kind: "\n\n".join(filter(None, parts)) for kind, parts in found.items() if any(parts)}


def drop_history(text: str) -> str:
    """What the report says of the images themselves."""
    return "\n\n".join(part for kind, part in read_sections(text).items() if kind != HISTORY)
