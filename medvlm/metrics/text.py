"""Similarity of a generated text to a reference: BLEU, ROUGE-L and CIDEr as pycocoevalcap computes them.

All work on lists of words; how a text becomes words is the task's. Axes: R draws of the texts, K columns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

Words = Sequence[str]
Grams = Counter[tuple[str, ...]]

_TINY, _SMALL = 1e-15, 1e-9
"""Of pycocoevalcap: they keep BLEU defined where an order has no match."""
BETA = 1.2
"""How much more recall counts than precision in ROUGE-L, in pycocoevalcap."""
ORDERS = 4
"""The longest n-grams of CIDEr."""
SIGMA = 6.0
"""Of the penalty of CIDEr for a length that differs."""


def count_grams(words: Words, order: int) -> Grams:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


# --- BLEU -------------------------------------------------------------------------------------------------


def count_bleu(found: Words, expected: Words, orders: int) -> tuple[float, ...]:
    """What a text adds to BLEU: matches of each order, n-grams of each order, its length and that of the reference."""
    grams = [(count_grams(found, n), count_grams(expected, n)) for n in range(1, orders + 1)]
    matches = [float((own & other).total()) for own, other in grams]
    return (*matches, *(float(own.total()) for own, _ in grams), float(len(found)), float(len(expected)))


def bleu(totals_RK: np.ndarray) -> np.ndarray:
    """BLEU of a corpus [R] from the sums of `count_bleu`, in [0, 1]. Source: Papineni et al. 2002, section 2.3, with
    one reference and the smoothing of pycocoevalcap."""
    orders = (totals_RK.shape[1] - 2) // 2
    matches_RN, grams_RN = totals_RK[:, :orders], totals_RK[:, orders : 2 * orders]
    precision_R = np.exp(np.log((matches_RN + _TINY) / (grams_RN + _SMALL)).mean(axis=1))
    ratio_R = (totals_RK[:, -2] + _TINY) / (totals_RK[:, -1] + _SMALL)
    brevity_R: np.ndarray = np.exp(np.minimum(0.0, 1 - 1 / ratio_R))
    return precision_R * brevity_R


# --- ROUGE-L ----------------------------------------------------------------------------------------------


def rouge_l(found: Words, expected: Words, beta: float = BETA) -> float:
    """F of the longest common subsequence; 1 for two empty texts. Source: Lin 2004, section 3.1."""
    if not found or not expected:
        return float(len(found) == len(expected))
    length = find_common_length(found, expected)
    precision, recall = length / len(found), length / len(expected)
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision) if length else 0.0


def find_common_length(a: Words, b: Words) -> int:
    """The length of their longest common subsequence. Bit i of a number stands for word i of `a`, so that a word of `b`
    costs one addition. Source: Crochemore et al. 2001, https://doi.org/10.1016/S0020-0190(00)00214-X."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    every = rest = (1 << len(a)) - 1
    for word in b:
        hits = rest & places.get(word, 0)
        rest = ((rest + hits) | (rest - hits)) & every
    return len(a) - rest.bit_count()


# --- CIDEr ------------------------------------------------------------------------------------------------


def fit_cider(references: Sequence[Words]) -> Callable[[Words, Words], float]:
    """(text, reference) -> CIDEr-D, from 0 to 10, where n-grams count the less, the more of these references have
    them. With a single reference nothing is rare, and all is 0.

    Source: Vedantam et al. 2015, https://arxiv.org/abs/1411.5726, section 3 and CIDEr-D of section 5, as in
    pycocoevalcap: its length penalty compares numbers of bigrams.
    """
    number_with = [Counter[tuple[str, ...]]() for _ in range(ORDERS)]
    for words in references:
        for order, number in enumerate(number_with, 1):
            number.update(count_grams(words, order).keys())
    most = math.log(len(references)) if references else 0.0

    def weigh(words: Words, order: int) -> dict[tuple[str, ...], float]:
        number = number_with[order - 1]
        return {
            gram: count * (most - math.log(max(1, number[gram]))) for gram, count in count_grams(words, order).items()
        }

    def score(found: Words, expected: Words) -> float:
        longer = max(0, len(found) - 1) - max(0, len(expected) - 1)
        similar = [_compare(weigh(found, order), weigh(expected, order)) for order in range(1, ORDERS + 1)]
        return 10 * math.exp(-(longer**2) / (2 * SIGMA**2)) * sum(similar) / ORDERS

    return score


def _compare(own: dict[tuple[str, ...], float], other: dict[tuple[str, ...], float]) -> float:
    """The cosine, where an n-gram of the text counts at most as often as in the reference."""
    shared = sum(min(weight, other[gram]) * other[gram] for gram, weight in own.items() if gram in other)
    lengths = math.hypot(*own.values()) * math.hypot(*other.values())
    return shared / lengths if lengths else 0.0
