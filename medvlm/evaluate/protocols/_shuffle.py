"""Whose media are shown in place of a sample's own, for the `shuffled` baseline."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from medvlm.core.sample import Sample


def partners(samples: Sequence[Sample], seed: int) -> list[int | None]:
    """For each sample the position of one of another patient with the same kinds of media; None where there is none.

    A fixed random derangement: each sample's media are shown at most once. A patient who has more than half of the
    samples leaves some of them without a partner. The partner may have the same findings, as chance has it; a partner
    chosen to differ would tell the model what the answer is not.
    """
    partner: list[int | None] = [None] * len(samples)
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, sample in enumerate(samples):
        if sample.media:
            alike[tuple(medium.kind for medium in sample.media)].append(position)
    rng = random.Random(seed)
    for positions in alike.values():
        circle, step = _circle([(samples[p].patient or samples[p].key, p) for p in positions], rng)
        if len(circle) > 1:
            for place, position in enumerate(circle):
                other = circle[(place + step) % len(circle)]
                if not samples[position].patient or samples[position].patient != samples[other].patient:
                    partner[position] = other
    return partner


def _circle(positions: Sequence[tuple[str, int]], rng: random.Random) -> tuple[list[int], int]:
    """Positions with those of a patient side by side, patients in random order, and a step that leads out of every
    patient."""
    of_patient: dict[str, list[int]] = defaultdict(list)
    for patient, position in positions:
        of_patient[patient].append(position)
    groups = list(of_patient.values())
    rng.shuffle(groups)
    circle = [position for group in groups for position in rng.sample(group, len(group))]
    # With one sample a patient the step is 1: a random cycle through all samples.
    return circle, max(map(len, groups)) % len(circle) or 1
