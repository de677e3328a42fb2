"""Text functions that several parts share."""

from __future__ import annotations

MEDIUM = "\ufdd2"
"""Stands for a medium in the text of a question, see core/turns.py. Unicode assigns it to no letter, ever."""

PIXEL_MM = "{pixel_mm}"
"""Stands in the text of a question for the size of a pixel that the model sees."""


def count_common_prefix(sequences: list[list[int]]) -> int:
    """The number of leading items that all sequences share."""
    shortest = min(len(s) for s in sequences)
    first = sequences[0]
    for i in range(shortest):
        if any(s[i] != first[i] for s in sequences):
            return i
    return shortest


def has_lone_surrogate(text: str) -> bool:
    """Whether a text holds what is not Unicode, as text does that was decoded from other bytes than UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def escape_lone_surrogates(text: str) -> str:
    """The text with escapes such as `\\udcff` for what is not Unicode, as in names of files in other encodings."""
    return text.encode("utf-8", "backslashreplace").decode()
