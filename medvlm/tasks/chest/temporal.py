"""Temporal-F1: whether a report names the same changes since an earlier image as its reference.

Source: Zhang et al. 2025 (Libra), https://arxiv.org/abs/2411.19378, and the list and formula of its code
(libra/eval/temporal_f1.py), after the temporal entity matching of Bannur et al. 2023, https://arxiv.org/abs/2301.04558.
Its named-entity model is not used: it can only add words of the list, and those are found by their letters anyway.
"""

from __future__ import annotations

import re

from medvlm.tasks._phrases import list_words

WORDS = list_words(
    "bigger change cleared constant decrease decreased decreasing elevated elevation enlarged enlargement enlarging"
    " expanded greater growing improved improvement improving increase increased increasing larger new persistence"
    " persistent persisting progression progressive reduced removal resolution resolved resolving smaller stability"
    " stable stably unchanged unfolded worse worsen worsened worsening unaltered"
)


def find_changes(text: str) -> frozenset[str]:
    """The words of change in a text."""
    return WORDS & frozenset(re.findall(r"[^\W_]+", text.lower()))


def temporal_f1(answer: str, reference: str) -> float:
    """F1 of the sets of words; 1 where neither text has any, 0 where only one has."""
    found, expected = find_changes(answer), find_changes(reference)
    if not found and not expected:
        return 1.0
    return 2 * len(found & expected) / (len(found) + len(expected))
