"""Chooses, for the `shuffled` baseline, the sample whose media replace those of another."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from medvlm.core.sample import Sample


def draw_partners(samples: Sequence[Sample], seed: int) -> list[int | None]:
    """For each sample the position of one of another patient with the same kinds of media; None if there is none.

    The partners are a random derangement, determined by the seed: the media of each sample are shown at most once. If a
    patient has more than half of the samples, some of them have no partner. The partner may have the same findings by
    chance; a partner chosen to differ would reveal what the answer is not.
    """
    partner: list[int | None] = [None] * len(samples)
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, sample in enumerate(samples):
        if sample.media:
            alike[tuple(medium.kind for medium in sample.media)].append(position)
    rng = random.Random(seed)
    for positions in alike.values():
        circle, step = _arrange([(samples[p].patient or samples[p].key, p) for p in positions], rng)
        if len(circle) > 1:
            for place, position in enumerate(circle):
                other = circle[(place + step) % len(circle)]
                if not samples[position].patient or samples[position].patient != samples[other].patient:
                    partner[position] = other
    return partner


def _arrange(positions: Sequence[tuple[str, int]], rng: random.Random) -> tuple[list[int], int]:
    """Positions in random order of patients, those of one patient next to each other, and a step that is large enough
    to leave every patient."""
    of_patient: dict[str, list[int]] = defaultdict(list)
    for patient, position in positions:
        of_patient[patient].append(position)
    groups = list(of_patient.values())
    rng.shuffle(groups)
    circle = [position for group in groups for position in rng.sample(group, len(group))]
    # With one sample per patient the step is 1, which is a random cycle through all samples.
    return circle, max(map(len, groups)) % len(circle) or 1
