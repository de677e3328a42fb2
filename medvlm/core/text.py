"""Text functions that several parts share."""

from __future__ import annotations


def count_common_prefix(sequences: list[list[int]]) -> int:
    """The number of leading items that all sequences share."""
    shortest = min(len(s) for s in sequences)
    first = sequences[0]
    for i in range(shortest):
        if any(s[i] != first[i] for s in sequences):
            return i
    return shortest
