"""Small text jobs that several parts share."""

from __future__ import annotations


def common_prefix(sequences: list[list[int]]) -> int:
    """How many leading items all sequences share."""
    shortest = min(len(s) for s in sequences)
    first = sequences[0]
    for i in range(shortest):
        if any(s[i] != first[i] for s in sequences):
            return i
    return shortest
