"""Where a text names the entries of a dictionary: whole words, whatever their case, the longest first."""

from __future__ import annotations

import re
from typing import NamedTuple

from medvlm.core.joint import Item
from medvlm.core.terminology import Terminology


class Mention(NamedTuple):
    """The first token and the last one + 1, and the number of the entry."""

    start: int
    end: int
    entry: int


class Mentions:
    def __init__(self, dictionary: Terminology):
        named = enumerate(dictionary.entries.items())
        self._entry_of: dict[str, int] = {}
        for number, (name, others) in named:
            for word in (name, *others):
                self._entry_of.setdefault(word.lower(), number)
        longest_first = sorted(self._entry_of, key=lambda word: (-len(word), word))
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)

    def find(self, item: Item) -> list[Mention]:
        """In the order of the text; those of which no token is left are not among them."""
        offsets, found = item.locate(), list[Mention]()
        for match in self._pattern.finditer(item.text):
            inside = [n for n, (start, end) in enumerate(offsets) if start < match.end() and match.start() < end]
            if inside:
                found.append(Mention(inside[0], inside[-1] + 1, self._entry_of[match[0].lower()]))
        return found
