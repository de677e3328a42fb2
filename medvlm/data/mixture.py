"""Maps a global position to a source and to the sample's index within that source."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm

from medvlm.data.order import Permutation

MAX_SLOTS = 1000
"""Maximum number of slots per cycle. Within a cycle, the share of a source is exact, or exact to 1 / 1000 for weights
that do not divide evenly."""


class Mixture:
    """Sources mixed by weight, in cycles. In each cycle, every source has exactly its quota, in shuffled order.

    `Mixture({"vqa": 3, "reports": 1}, seed).at(position)` is (source, n): the sample is the n-th of that
    source, and n grows by one from one of its positions to the next. Takes the time and memory of one
    cycle (at most 1000 slots), at any position.

    limits: source -> most samples to take from it. Once a source is used up, the others are mixed by their weights.
    length: number of positions, None if endless. at() raises IndexError beyond it.
    """

    def __init__(
        self, weights: Mapping[str, float], seed: int, stage: str = "", limits: Mapping[str, int] | None = None
    ):
        self._key, self._weights, self._limits = (seed, stage, "mixture"), weights, limits or {}
        self._phases = [_Phase(0, assign_quotas(weights), dict.fromkeys(weights, 0))]
        self.length: int | None = None
        # Neighbouring positions share a cycle; a few cycles are cached because threads run ahead of each other.
        self._arrangement = lru_cache(maxsize=8)(self._arrange)
        while (end := self._end(len(self._phases) - 1)) is not None:
            used = self.used(end)
            left = {
                source: weight
                for source, weight in weights.items()
                if used[source] < self._limits.get(source, used[source] + 1)
            }
            if not left:
                self.length = end
                break
            self._phases.append(_Phase(end, assign_quotas(left), used))

    def at(self, position: int) -> tuple[str, int]:
        if self.length is not None and position >= self.length:
            raise IndexError(f"position {position} of a mixture of {self.length} samples")
        number = self._phase(position)
        phase = self._phases[number]
        cycle, slot = divmod(position - phase.start, phase.cycle)
        source, nth = self._arrangement(number, cycle)[slot] if phase.cycle > 1 else (next(iter(phase.quotas)), 0)
        return source, phase.before[source] + cycle * phase.quotas[source] + nth

    def used(self, position: int) -> dict[str, int]:
        """How many samples of each source the positions before this one take."""
        number = self._phase(max(position - 1, 0))
        phase = self._phases[number]
        cycle, slot = divmod(position - phase.start, phase.cycle)
        begun = Counter(source for source, _ in self._arrangement(number, cycle)[:slot])
        return {
            source: before + cycle * phase.quotas.get(source, 0) + begun[source]
            for source, before in phase.before.items()
        }

    def _phase(self, position: int) -> int:
        return bisect_right([phase.start for phase in self._phases], position) - 1

    def _end(self, number: int) -> int | None:
        """The position at which the first of a phase's sources is used up; None if all of them are endless."""
        phase, ends = self._phases[number], []
        for source in phase.quotas.keys() & self._limits.keys():
            last = self._limits[source] - phase.before[source] - 1
            cycle, nth = divmod(last, phase.quotas[source])
            ends.append(phase.start + cycle * phase.cycle + self._arrangement(number, cycle).index((source, nth)) + 1)
        return min(ends, default=None)

    def _arrange(self, number: int, cycle: int) -> list[tuple[str, int]]:
        """For each slot of a cycle its source, and how many slots of that source come before it."""
        phase = self._phases[number]
        unshuffled = [source for source, quota in phase.quotas.items() for _ in range(quota)]
        shuffled = Permutation(phase.cycle, *self._key, *([number] if number else []), cycle)
        seen = dict.fromkeys(phase.quotas, 0)
        slots = []
        for slot in range(phase.cycle):
            source = unshuffled[shuffled[slot]]
            slots.append((source, seen[source]))
            seen[source] += 1
        return slots


class _Phase:
    """Positions from `start` on, until a source is used up. before: samples of each source that were taken before."""

    def __init__(self, start: int, quotas: dict[str, int], before: dict[str, int]):
        self.start, self.quotas, self.before, self.cycle = start, quotas, before, sum(quotas.values())


def temper(weights: Mapping[str, float], sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Weights times size ** (1 / temperature): 1 mixes by size, a large temperature by the weights alone.

    Source: Arivazhagan et al., Massively multilingual neural machine translation in the wild (2019), section 3.
    """
    largest = max(sizes[name] for name in weights)  # powers of shares, so that nothing overflows
    return {name: weight * (sizes[name] / largest) ** (1 / temperature) for name, weight in weights.items()}


def assign_quotas(weights: Mapping[str, float]) -> dict[str, int]:
    """Slots of each source in a cycle, sorted by name, so that the order of a recipe's lines does not matter.

    Exact if the weights are fractions that need at most 1000 slots, e.g. 3:1 or 0.8:0.15:0.05; otherwise 1000 slots by
    largest remainder, at least one each (more slots if there are more than 1000 sources).
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
    """One slot for each source, so that a rare one is never left out, and the rest by weight."""
    free, total = slots - len(weights), sum(weights.values())
    wanted = {name: max(weight / total * slots - 1, Fraction(0)) for name, weight in weights.items()}
    scale = free / sum(wanted.values()) if free else Fraction(0)
    counts = {name: int(share * scale) for name, share in wanted.items()}
    by_remainder = sorted(wanted, key=lambda name: wanted[name] * scale - counts[name], reverse=True)
    for name in by_remainder[: free - sum(counts.values())]:
        counts[name] += 1
    return {name: count + 1 for name, count in counts.items()}
