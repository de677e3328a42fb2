"""Learners of a vector: how images are clustered, when a learner joins, and which units it gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from medvlm.core.contracts import Features
from medvlm.decoders import subspaces
from medvlm.decoders._clusters import find_centers, find_nearest, measure_agreement

WIDTH, GRID, COUNT = 6, (2, 2), 24
LABELS = torch.arange(COUNT) % 3


def build(**settings: Any) -> subspaces.Subspaces:
    torch.manual_seed(0)
    small = {"width": 16, "learners": 3, "memory": 40, "every": 2, "patience": 2}
    config = subspaces.Config(kind="subspaces", classes=("a", "b", "c"), **{**small, **settings})
    return subspaces.build(config, WIDTH, GRID, (1, 8, 8)).train()


def see(seed: int = 0) -> Features:
    patches = torch.randn(COUNT, 4, WIDTH, generator=torch.Generator().manual_seed(seed))
    return Features(patches, patches.mean(1), GRID)


TOLD = torch.where(torch.arange(16) < 7, 50.0, 0.0) + 0.01 * torch.arange(16)
"""Of the units. The first seven matter."""


def step(built: subspaces.Subspaces, done: float = 0.1) -> torch.Tensor:
    vectors = built(see()).detach()
    built._told = [TOLD]
    built.observe(vectors, LABELS, done, list)
    return vectors


def test_clusters_and_their_agreement_with_labels_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    cluster = pytest.importorskip("sklearn.cluster")
    generator = torch.Generator().manual_seed(1)
    middles, truth = 8 * torch.randn(4, 5, generator=generator), torch.arange(80) % 4
    points = middles[truth] + torch.randn(80, 5, generator=generator)
    found = find_nearest(points, find_centers(points, 4))
    other = cluster.KMeans(4, n_init=5, random_state=0).fit_predict(points.numpy())
    assert metrics.adjusted_rand_score(found, other) == 1
    mixed = torch.randint(3, (80,), generator=generator)
    for labels in (truth, mixed, torch.zeros(80, dtype=torch.long)):
        expected = metrics.normalized_mutual_info_score(labels, found)
        assert measure_agreement(found, labels) == pytest.approx(expected, abs=1e-12)
    assert measure_agreement(truth * 0, truth * 0) == 1 and len(find_centers(torch.ones(5, 2), 3)) == 1


def test_a_learner_joins_when_clusters_have_long_not_agreed_better_with_the_labels() -> None:
    """The vectors stay the same here, so the first clustering stays the best."""
    built, joined = build(), []
    for _ in range(12):
        step(built)
        joined.append(int(built.joined))
    assert joined == [1] * 5 + [2] * 7, "at the third clustering; nine units are too few to divide"
    waits = build(patience=9)
    for _ in range(12):
        step(waits)
    assert int(waits.joined) == 1


def test_units_that_mattered_stay_and_the_others_begin_anew() -> None:
    built = build()
    before = built.classify.weight.detach().clone()
    for _ in range(6):
        step(built)
    assert built.owner_D.tolist() == [0] * 7 + [1] * 9
    after = built.classify.weight.detach()
    assert torch.equal(after[:7], before[:7]) and (after[7:] != before[7:]).any(1).all()
    assert after[7:].abs().max() <= WIDTH**-0.5


def test_what_a_unit_told_is_its_value_times_its_slope() -> None:
    """Summed over the images, and over the ranks."""
    built, slope = build(every=99), torch.linspace(-1, 1, 16)
    layer = built.classify
    whole = torch.nn.functional.linear(see().pooled, layer.weight, layer.bias).detach().requires_grad_()
    (normalize(whole, dim=1) @ slope).sum().backward()
    vectors = built(see())
    (vectors[:, 0] @ slope).sum().backward()
    built.observe(vectors.detach(), LABELS, 0.1, lambda values: [2 * value for value in values])
    assert whole.grad is not None
    torch.testing.assert_close(built.told_D, 2 * (whole * whole.grad).sum(0).double().detach(), rtol=1e-4, atol=1e-5)


def test_a_learner_has_the_images_of_its_cluster_in_its_own_units() -> None:
    built = build()
    for _ in range(6):
        step(built)
    vectors = built(see())
    assert vectors.shape == (COUNT, 3, 16)
    is_here_NL = (vectors[:, 1:] != 0).any(2)
    assert (is_here_NL.sum(1) == 1).all() and is_here_NL.any(0).all()
    for learner in (0, 1):
        assert not vectors[:, 1 + learner][:, built.owner_D != learner].any()
    torch.testing.assert_close(vectors[:, 1:].norm(dim=2).amax(1), torch.ones(COUNT))
    nearest = find_nearest(vectors[:, 0].detach(), find_centers(built.memory_QD, 2))
    assert torch.equal(is_here_NL.long().argmax(1), nearest)
    assert built.eval()(see()).shape == (COUNT, 1, 16), "only the whole vector is used"


def test_at_last_all_units_train_together_and_no_image_is_remembered() -> None:
    built = build()
    for _ in range(6):
        step(built)
    assert int(built.joined) == 2 and built.memory_QD.any()
    step(built, done=0.9)
    assert built(see()).shape == (COUNT, 1, 16)
    assert not built.memory_QD.any() and not built.centers_LD.any() and (built.labels_Q < 0).all()


def test_a_restored_decoder_goes_on_as_the_one_that_was_saved() -> None:
    one, other = build(), build()
    for _ in range(5):
        step(one)
    other.load_state_dict(one.state_dict())
    for _ in range(4):
        torch.testing.assert_close(step(one), step(other), rtol=0, atol=0)
    assert int(one.joined) == int(other.joined) == 2 and torch.equal(one.owner_D, other.owner_D)
