"""The terms that make a published system of labels: without any of them, loss or gradient are others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medvlm.core.config import component
from medvlm.core.contracts import Features
from medvlm.decoders._attention import Attention
from medvlm.recipe.load import load

WIDTH, GRID, STEPS = 8, (3, 3), 40


def read(system: str) -> tuple[Any, Any, str]:
    """The decoder of a recipe at toy size, its loss, and the name of that."""
    recipe = load(f"systems/{system}.yaml").recipe
    ((name, decoder),) = recipe.model.decoders.items()
    (loss,) = recipe.stages[0].losses[name]
    small: dict[str, Any] = {"width": WIDTH, "attention": Attention(width=4)}
    if hasattr(decoder, "every"):
        small |= {"width": 32, "memory": 24, "every": 2}
    return decoder.model_copy(update=small), loss, name


def build(decoder: Any) -> Any:
    torch.manual_seed(0)
    return component("decoders", decoder.kind).build(decoder, WIDTH, GRID, (1, 24, 24)).train()


def learn(decoder: Any, loss: Any, like: Any = None, count: int = 24) -> tuple[float, torch.Tensor, Any]:
    """The loss of one batch, its gradient by the features, and the decoder; of one that observes its steps, after
    some. like: a decoder whose weights it begins with, as far as it has them: without a part, others are drawn anew."""
    built = build(decoder)
    own, given = dict(built.named_parameters()), dict(build(like or decoder).named_parameters())
    with torch.no_grad():
        for name in own.keys() & given.keys():
            if own[name].shape == given[name].shape:
                own[name].copy_(given[name])
    torch.manual_seed(1)
    patches = torch.randn(count, 9, WIDTH, requires_grad=True)
    features = Features(patches, patches.mean(1), GRID)
    for _ in range(STEPS if hasattr(built, "observe") else 0):
        vectors = built(features)
        vectors.square().mul(torch.arange(decoder.width)).sum().backward()
        built.observe(vectors.detach(), torch.arange(count) % len(decoder.classes), 0.5, list)
        patches.grad = None
    logits = built(features)
    module = component("objectives.heads", loss.kind)
    if getattr(module, "JOINT", False):
        labels = torch.randint(len(decoder.classes), (count,))
        total = module.add_up(loss, logits, labels, decoder, slice(0, count))
    else:
        labels = torch.randint(2, (count, len(decoder.classes)))
        total = module.add_up(loss, logits, labels, decoder)
    total.backward()
    assert patches.grad is not None
    return total.item(), patches.grad, built


OFF: list[tuple[str, dict[str, Any]]] = [
    ("hica_vqa", {"prompts": 0}),
    ("hica_vqa", {"parents": {"pneumonia": "consolidation"}}),
    ("subspace_learners", {"learners": 2}),
    ("subspace_learners", {"patience": 10**6}),
    ("subspace_learners", {"reads": "mean"}),
]


@pytest.mark.parametrize(("system", "off"), OFF, ids=lambda each: "-".join(each) if isinstance(each, dict) else each)
def test_without_a_term_the_features_learn_something_else(system: str, off: dict[str, Any]) -> None:
    decoder, loss, _ = read(system)
    assert all(getattr(decoder, key) != value for key, value in off.items()), "it is off already"
    (whole, slope, _), (less, other, _) = learn(decoder, loss), learn(decoder.model_copy(update=off), loss, decoder)
    assert learn(decoder, loss)[0] == whole, "it is not only the term that differs"
    assert whole != pytest.approx(less, rel=1e-5) and (slope - other).norm() > 1e-3 * slope.norm() > 0


def test_an_answer_of_hica_counts_where_the_one_above_it_is_yes() -> None:
    decoder, loss, _ = read("hica_vqa")
    flat = component("objectives.heads", "binary_cross_entropy")
    torch.manual_seed(0)
    logits, labels = torch.randn(4, len(decoder.classes)), torch.zeros(4, len(decoder.classes), dtype=torch.int64)
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(
        component("objectives.heads", loss.kind).add_up(loss, logits, labels, decoder), logits
    )
    below = [name in decoder.parents for name in decoder.classes]
    assert not slope[:, below].any() and bool(slope[:, [not each for each in below]].all())
    flat_loss = flat.Config(kind="binary_cross_entropy")
    (slope,) = torch.autograd.grad(flat.add_up(flat_loss, logits, labels, decoder), logits)
    assert bool(slope.all()), "a head without a tree learns from all of them"


def test_learners_join_while_the_clusters_do_not_agree_better_with_the_labels() -> None:
    decoder, loss, _ = read("subspace_learners")
    (_, _, built), (_, _, alone) = learn(decoder, loss), learn(decoder.model_copy(update={"patience": 10**6}), loss)
    assert int(built.joined) > 1 == int(alone.joined)
    assert built.owner_D.unique().tolist() == list(range(int(built.joined)))
