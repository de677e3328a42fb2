"""The candidate that is most similar to an answer, letter by letter."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher


def find_most_similar(candidates: Sequence[str], text: str) -> int | None:
    """The index of the first of the most similar ones by difflib's ratio; None if none shares a letter with it."""
    ratios = [SequenceMatcher(None, candidate, text).ratio() for candidate in candidates]
    return ratios.index(max(ratios)) if any(ratios) else None
