from __future__ import annotations

import random
from collections import Counter

import pytest

from medvlm.core.sample import Medium, Sample
from medvlm.evaluate.protocols._shuffle import draw_partners


def sample(key: str, patient: str = "", *kinds: str) -> Sample:
    media = tuple(Medium(kind, f"{n}.png", (8, 8)) for n, kind in enumerate(kinds))
    return Sample(key, "toy", "test", media, patient=patient)


def some(seed: int, n: int) -> list[Sample]:
    """Up to five samples a patient, films, volumes, pairs of films, and texts alone."""
    rng = random.Random(seed)
    kinds = [("film",), ("film",), ("film",), ("volume",), ("film", "film"), ()]
    samples = []
    for i in range(n):
        samples += [sample(f"{i}-{j}", rng.choice(["", f"p{i}"]), *rng.choice(kinds)) for j in range(rng.randint(1, 5))]
    return samples


@pytest.mark.parametrize("seed", range(10))
def test_everyone_gets_the_media_of_another_patient_and_all_media_are_shown_once(seed: int) -> None:
    samples = some(seed, n=60)
    found = draw_partners(samples, seed)
    for own, other in zip(samples, found, strict=True):
        if own.media:
            assert other is not None
            shown = samples[other]
            assert [m.kind for m in shown.media] == [m.kind for m in own.media]
            assert shown.key != own.key
            assert not own.patient or shown.patient != own.patient
        else:
            assert other is None
    assert set(Counter(p for p in found if p is not None).values()) == {1}


def test_the_seed_decides() -> None:
    samples = some(0, n=60)
    assert draw_partners(samples, 1) == draw_partners(samples, 1)
    assert draw_partners(samples, 1) != draw_partners(samples, 2)


def test_a_sample_that_is_alone_has_no_partner() -> None:
    assert draw_partners([sample("a", "", "film"), sample("b", "", "volume")], 0) == [None, None]
    assert draw_partners([], 0) == []


def test_images_of_the_same_patient_are_no_other_images() -> None:
    assert draw_partners([sample(str(i), "p", "film") for i in range(4)], 0) == [None] * 4


def test_of_a_patient_with_most_samples_only_some_have_a_partner() -> None:
    samples = [*(sample(f"p{i}", "p", "film") for i in range(5)), *(sample(f"q{i}", "q", "film") for i in range(2))]
    found = draw_partners(samples, 0)
    pairs = [
        (own.patient, samples[other].patient) for own, other in zip(samples, found, strict=True) if other is not None
    ]
    assert sorted(pairs) == [("p", "q"), ("p", "q"), ("q", "p"), ("q", "p")]
