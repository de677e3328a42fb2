"""Losses of metric learning and of classes in a tree against their equations in float64, forward and gradient."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from medvlm.core.config import component
from medvlm.core.decoder_config import MISSING
from tests.objectives.test_heads import check_same

LABELS = torch.tensor([0, 1, 0, 2, 1, MISSING, 0, 1, 2, 3])
"""The last one is alone in its class."""


def loss_of(kind: str, decoder: Any, vectors: torch.Tensor, labels: torch.Tensor, **settings: Any) -> torch.Tensor:
    module = component("objectives.heads", kind)
    config = module.Config(kind=kind, **settings)
    rows = [slice(None)] if getattr(module, "JOINT", False) else []
    total: torch.Tensor = module.add_up(config, vectors, labels, decoder, *rows)
    return total / module.weigh(config, labels, decoder)


def decoder_of() -> Any:
    return component("decoders", "unit_vector").Config(kind="unit_vector", classes=("a", "b", "c", "d"), width=5)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def triplets(x: torch.Tensor, labels: list[int], margin: float) -> list[torch.Tensor]:
    """The loss of each anchor."""
    found = []
    for a in range(len(labels)):
        terms = []
        for p in range(len(labels)):
            negatives = [n for n in range(len(labels)) if labels[n] not in (labels[a], MISSING)]
            if p != a and labels[p] == labels[a] and negatives:
                far = {n: (x[a] - x[n]).square().sum() for n in negatives}
                near = (x[a] - x[p]).square().sum()
                semi = [n for n in negatives if far[n] > near]
                chosen = min(semi, key=lambda n: far[n]) if semi else max(negatives, key=lambda n: far[n])
                terms.append((near - far[chosen] + margin).clamp(min=0))
        found.append(torch.stack(terms).mean() if terms and labels[a] != MISSING else x.sum() * 0)
    return found


@pytest.mark.parametrize("margin", [0.2, 1.5])
def test_triplets_are_those_of_the_definition(margin: float) -> None:
    known = (LABELS != MISSING).sum()
    check_same(
        drawn(10, 5),
        lambda x: loss_of("triplet", decoder_of(), normalize(x)[:, None], LABELS, margin=margin),
        lambda x: torch.stack(triplets(normalize(x), LABELS.tolist(), margin)).sum() / known,
    )


def similarities(x: torch.Tensor, labels: list[int], epsilon: float) -> torch.Tensor:
    """The code of the paper's authors (github.com/msight-tech/research-ms-loss), written out anew."""
    total = x.sum() * 0
    for i, own in enumerate(labels):
        if own == MISSING:
            continue
        s = {j: x[i] @ x[j] for j in range(len(labels)) if j != i and labels[j] != MISSING}
        same, other = [j for j in s if labels[j] == own], [j for j in s if labels[j] != own]
        if not same or not other:
            continue
        hard = [j for j in other if s[j] + epsilon > min(s[k] for k in same)]
        easy = [j for j in same if s[j] - epsilon < max(s[k] for k in other)]
        if hard and easy:
            total = total + (1 + torch.stack([torch.exp(-2 * (s[j] - 0.5)) for j in easy]).sum()).log() / 2
            total = total + (1 + torch.stack([torch.exp(50 * (s[j] - 0.5)) for j in hard]).sum()).log() / 50
    return total


@pytest.mark.parametrize("epsilon", [0.1, 0.0])
def test_multi_similarity_is_that_of_its_authors(epsilon: float) -> None:
    known = (LABELS != MISSING).sum()
    check_same(
        drawn(10, 5),
        lambda x: loss_of("multi_similarity", decoder_of(), normalize(x)[:, None], LABELS, epsilon=epsilon),
        lambda x: similarities(normalize(x), LABELS.tolist(), epsilon) / known,
    )


@pytest.mark.parametrize("kind", ["triplet", "multi_similarity", "distance_margin"])
def test_a_batch_of_one_class_has_no_loss_and_a_finite_gradient(kind: str) -> None:
    x = drawn(4, 5).requires_grad_()
    for labels in ([1, 1, 1, 1], [MISSING] * 4, [0, 1, 2, 3]):
        module = component("objectives.heads", kind)
        vectors = normalize(x)[:, None]
        total = module.add_up(module.Config(kind=kind), vectors, torch.tensor(labels), decoder_of(), slice(0, 4))
        assert total.item() == 0
        total.backward()
        assert x.grad is not None and x.grad.isfinite().all() and not x.grad.any()


# --- margin and subspaces ------------------------------------------------------------------------------


def margins(x: torch.Tensor, labels: list[int], beta: float, cutoff: float) -> list[torch.Tensor]:
    """The terms that are not 0, as in the code of Dynamic Subspace Learners."""
    found = []
    for a, p in product(range(len(labels)), repeat=2):
        others = [n for n in range(len(labels)) if labels[n] not in (labels[a], MISSING)]
        if a == p or labels[a] != labels[p] or labels[a] == MISSING or not others:
            continue
        distance = {n: (x[a] - x[n]).norm() for n in (*others, p)}
        beyond = [n for n in others if distance[n] > cutoff]
        chosen = min(beyond, key=lambda n: distance[n]) if beyond else max(others, key=lambda n: distance[n])
        terms = ((distance[p] - beta + 0.2).clamp(min=0), (beta - distance[chosen] + 0.2).clamp(min=0))
        found += [term for term in terms if term > 0]
    return found


@pytest.mark.parametrize(("beta", "cutoff"), [(1.2, 0.5), (0.9, 1.4)])
def test_the_margin_loss_is_the_mean_of_the_terms_that_are_not_zero(beta: float, cutoff: float) -> None:
    check_same(
        drawn(10, 5),
        lambda x: loss_of("distance_margin", decoder_of(), normalize(x)[:, None], LABELS, boundary=beta, cutoff=cutoff),
        lambda x: torch.stack(margins(normalize(x), LABELS.tolist(), beta, cutoff)).mean(),
    )


def test_shares_of_a_batch_add_up_to_the_margin_loss_of_the_whole() -> None:
    module, whole = component("objectives.heads", "distance_margin"), normalize(drawn(10, 5))[:, None]
    config = module.Config(kind="distance_margin")
    parts = [module.add_up(config, whole, LABELS, decoder_of(), own) for own in (slice(0, 3), slice(3, 10))]
    assert sum(parts).item() == pytest.approx(
        module.add_up(config, whole, LABELS, decoder_of(), slice(0, 10)).item(), rel=1e-6
    )


@pytest.mark.parametrize("kind", ["triplet", "distance_margin"])
def test_each_learner_is_trained_on_its_own_images(kind: str) -> None:
    """Each anchor is compared with the images of its learner, in the units of that learner."""
    learner_of, units = [0, 0, 0, 0, 1, 1, 0, 1, 0, 1], [[0, 1, 2], [3, 4]]
    known = (LABELS != MISSING).sum()

    def split(x: torch.Tensor, learner: int) -> torch.Tensor:
        rows = [i for i in range(10) if learner_of[i] == learner]
        return normalize(x[rows][:, units[learner]])

    def join(x: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(10, 3, 5, dtype=x.dtype)
        found[:, 0] = normalize(x)
        for learner in (0, 1):
            rows = [i for i in range(10) if learner_of[i] == learner]
            for row, vector in zip(rows, split(x, learner), strict=True):
                found[row, 1 + learner, units[learner]] = vector
        return found

    def reference(x: torch.Tensor) -> torch.Tensor:
        found = []
        for learner in (0, 1):
            labels = [label for label, of in zip(LABELS.tolist(), learner_of, strict=True) if of == learner]
            own = split(x, learner)
            found += triplets(own, labels, 1.0) if kind == "triplet" else margins(own, labels, 1.2, 0.5)
        return torch.stack(found).sum() / (known if kind == "triplet" else len(found))

    settings = {"margin": 1.0} if kind == "triplet" else {}
    check_same(drawn(10, 5), lambda x: loss_of(kind, decoder_of(), join(x), LABELS, **settings), reference)


# --- classes in a tree --------------------------------------------------------------------------------


CLASSES = ("lobar", "opacity", "consolidation", "effusion")
PARENTS = {"consolidation": "opacity", "lobar": "consolidation"}
TREE = component("decoders", "hierarchy").Config(kind="hierarchy", classes=CLASSES, parents=PARENTS)


def conditional(x: torch.Tensor, labels: list[list[int]]) -> torch.Tensor:
    """Level 0: opacity and effusion, weight 1/2 each; levels 1 and 2 have one class each."""
    weight = {"opacity": 0.5, "effusion": 0.5, "consolidation": 1.0, "lobar": 1.0}
    total, weights = x.sum() * 0, 0.0
    for row, found in enumerate(labels):
        label = dict(zip(CLASSES, found, strict=True))
        if label["lobar"] == 1:
            label["consolidation"] = 1
        if label["consolidation"] == 1:
            label["opacity"] = 1
        for number, name in enumerate(CLASSES):
            if label[name] in (0, 1) and (name not in PARENTS or label[PARENTS[name]] == 1):
                p = x[row, number].sigmoid()
                total = total - weight[name] * (p if label[name] else 1 - p).log()
                weights += weight[name]
    return total / weights


def test_classes_in_a_tree_are_learned_where_their_parent_is_there() -> None:
    labels = [list(each) for each in product([0, 1, MISSING, -2], repeat=4)]
    check_same(
        drawn(len(labels), 4),
        lambda x: loss_of("conditional_cross_entropy", TREE, x, torch.tensor(labels)),
        lambda x: conditional(x, labels),
    )


def test_a_class_in_a_tree_is_never_more_probable_than_its_parent() -> None:
    module, logits = component("decoders", "hierarchy"), drawn(20, 4)
    p = logits.sigmoid()
    expected = torch.stack([p[:, 0] * p[:, 1] * p[:, 2], p[:, 1], p[:, 1] * p[:, 2], p[:, 3]], 1)
    torch.testing.assert_close(module.to_answers(TREE, logits), expected)
    assert math.prod(expected[0].tolist()) > 0


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ({"lobar": "opacities"}, "'opacities' is not among `classes`, did you mean 'opacity'"),
        ({"lobar": "opacity", "opacity": "lobar"}, "is its own ancestor"),
    ],
)
def test_what_is_no_tree_is_refused(parents: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        component("decoders", "hierarchy").Config(kind="hierarchy", classes=CLASSES, parents=parents)
