"""A report in its sections: what was found, what it means, and what was known before."""

from __future__ import annotations

import re
from functools import lru_cache

FINDINGS, IMPRESSION, HISTORY = "findings", "impression", "history"
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


@lru_cache(maxsize=4096)  # every measure reads the same texts
def read_sections(text: str) -> dict[str, str]:
    """Section -> its text; "" for what stands before the first heading. A heading is one of the common names with a
    colon, at the beginning of a line or sentence. Sections of one kind are joined: indication, comparison and technique
    are `history`."""
    found: dict[str, list[str]] = {}
    kind, start = "", 0
    for heading in _HEADING.finditer(text):
        found.setdefault(kind, []).append(text[start : heading.start()].strip())
        kind, start = heading.lastgroup or "", heading.end()
    found.setdefault(kind, []).append(text[start:].strip())
    return {kind: "\n\n".join(filter(None, parts)) for kind, parts in found.items() if any(parts)}


def drop_history(text: str) -> str:
    """What the report says of the images themselves."""
    return "\n\n".join(part for kind, part in read_sections(text).items() if kind != HISTORY)
