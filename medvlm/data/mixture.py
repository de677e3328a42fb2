"""Which source a global position draws from, and the how-manieth sample of that source it is."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm

from medvlm.data.order import Permutation

MAX_SLOTS = 1000
"""Slots of a cycle: the share of a source is exact within a cycle, to 1 / 1000 for weights that do not divide evenly."""


class Mixture:
    """Sources mixed by weight, in cycles: in each, every source has exactly its quota, in a shuffled arrangement.

    `Mixture({"vqa": 3, "reports": 1}, seed).at(position)` is (source, n): the sample is the n-th of that
    source, and n grows by one from one of its positions to the next. The time and memory are those of one
    cycle (at most 1000 slots), whatever the position.
    """

    def __init__(self, weights: Mapping[str, float], seed: int, stage: str = ""):
        self.quotas = quotas(weights)
        self.cycle = sum(self.quotas.values())
        self._key = (seed, stage, "mixture")
        # Neighbouring positions lie in the same cycle; a few are kept because threads run ahead of each other.
        self._arrangement = lru_cache(maxsize=8)(self._arrange)

    def at(self, position: int) -> tuple[str, int]:
        cycle, slot = divmod(position, self.cycle)
        source, nth = self._arrangement(cycle)[slot]
        return source, cycle * self.quotas[source] + nth

    def _arrange(self, cycle: int) -> list[tuple[str, int]]:
        """For each slot of a cycle its source, and how many slots of that source come before it."""
        unshuffled = [source for source, quota in self.quotas.items() for _ in range(quota)]
        shuffled = Permutation(self.cycle, *self._key, cycle)
        seen = dict.fromkeys(self.quotas, 0)
        slots = []
        for slot in range(self.cycle):
            source = unshuffled[shuffled[slot]]
            slots.append((source, seen[source]))
            seen[source] += 1
        return slots


def quotas(weights: Mapping[str, float]) -> dict[str, int]:
    """Slots of each source in a cycle, in the order of their names, so that the order of a recipe's lines changes nothing.

    Exact where the weights are fractions that need at most 1000 slots, e.g. 3:1 or 0.8:0.15:0.05; otherwise
    1000 slots by largest remainder, at least one each (more slots if there are more than 1000 sources).
    """
    assert weights and all(w > 0 for w in weights.values()), weights
    exact = {name: Fraction(weights[name]).limit_denominator(MAX_SLOTS) for name in sorted(weights)}
    if all(abs(exact[name] - Fraction(w)) <= Fraction(w) / 10**9 for name, w in weights.items()):
        whole = lcm(*(share.denominator for share in exact.values()))
        counts = {name: int(share * whole) for name, share in exact.items()}
        divisor = gcd(*counts.values())
        counts = {name: count // divisor for name, count in counts.items()}
        if sum(counts.values()) <= MAX_SLOTS:
            return counts
    return _largest_remainder({name: Fraction(weights[name]) for name in sorted(weights)}, max(MAX_SLOTS, len(weights)))


def _largest_remainder(weights: dict[str, Fraction], slots: int) -> dict[str, int]:
    """One slot each first, so that a rare source is never left out; the rest by weight."""
    free, total = slots - len(weights), sum(weights.values())
    wanted = {name: max(weight / total * slots - 1, Fraction(0)) for name, weight in weights.items()}
    scale = free / sum(wanted.values()) if free else Fraction(0)
    counts = {name: int(share * scale) for name, share in wanted.items()}
    by_remainder = sorted(wanted, key=lambda name: wanted[name] * scale - counts[name], reverse=True)
    for name in by_remainder[: free - sum(counts.values())]:
        counts[name] += 1
    return {name: count + 1 for name, count in counts.items()}
