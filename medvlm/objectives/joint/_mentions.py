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
        self._words = [(word, number) for number, (name, others) in named for word in (name, *others)]
        self._entry_of = {word.lower(): number for word, number in reversed(self._words)}
        longest_first = sorted((word for word, _ in self._words), key=lambda word: (-len(word), word))
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)

    def find(self, item: Item) -> list[Mention]:
        """In the order of the text; those of which no token is left are not among them."""
        offsets, found = item.locate(), list[Mention]()
        for match in self._pattern.finditer(item.text):
            inside = [n for n, (start, end) in enumerate(offsets) if start < match.end() and match.start() < end]
            if inside:
                found.append(Mention(inside[0], inside[-1] + 1, self._find_entry(match[0])))
        return found

    def list_entries(self, text: str) -> list[int]:
        """The numbers of the entries that a text names, in its order."""
        return [self._find_entry(match[0]) for match in self._pattern.finditer(text)]

    def _find_entry(self, said: str) -> int:
        """By its small letters; letters that match without having the same ones, such as dotted and dotless i, by
        comparison with each word."""
        known = self._entry_of.get(said.lower())
        if known is not None:
            return known
        return next(entry for word, entry in self._words if re.fullmatch(re.escape(word), said, re.IGNORECASE))
