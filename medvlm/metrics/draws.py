"""Statistics of several random answers to one question."""

from __future__ import annotations

from math import comb


def pass_at(k: int, num_drawn: int, num_right: int) -> float:
    """The probability that at least one of k answers is right, estimated without bias from more answers.

    k: at most num_drawn. Source: Chen et al. 2021, https://arxiv.org/abs/2107.03374, equation 1.
    """
    assert 0 < k <= num_drawn and 0 <= num_right <= num_drawn, (k, num_drawn, num_right)
    return 1.0 - comb(num_drawn - num_right, k) / comb(num_drawn, k)
