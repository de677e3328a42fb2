"""Masks of exclusive classes that do not speak of all of them: losses against a reference in float64 that joins classes
sample by sample, and a decoder that learns each class from another data set."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from medvlm.core.decoder_config import MISSING, join_background
from tests.objectives.test_heads import CLASSES, SIZES, check_same, loss_of

MASKS = SIZES[1:]
K = len(CLASSES)
ABSENT: list[list[int]] = [[], [1], [0, 2], [2], [0, 1]]
"""Of each sample, the classes that its mask does not speak of."""


def draw(size: tuple[int, ...], missing: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(len(ABSENT), 1 + K, *size, generator=generator)
    labels = torch.randint(0, 1 + K, (len(ABSENT), *size), generator=generator)
    for row, absent in zip(labels, ABSENT, strict=True):
        is_open = torch.isin(row, torch.tensor([0, *(1 + n for n in absent)]))
        row[is_open] = join_background(absent) if absent else 0
    labels[torch.rand(labels.shape, generator=generator) < missing] = MISSING
    return logits, labels


def join(x: torch.Tensor, labels: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one sample: probabilities and truth [1 + its classes, labelled pixels], the joined background first."""
    own = [n for n in range(K) if n not in ABSENT[number]]
    p = x[number].softmax(0)
    rest = [0, *(1 + n for n in ABSENT[number])]
    joined = torch.stack([p[rest].sum(0), *(p[1 + n] for n in own)])
    truth = torch.stack([labels[number] <= 0, *(labels[number] == 1 + n for n in own)]).to(x.dtype)
    known = labels[number] != MISSING
    return joined[:, known], truth[:, known]


def cross_entropy(x: torch.Tensor, labels: torch.Tensor, gamma: float = 0.0) -> torch.Tensor:
    total, count = x.new_zeros(()), 0
    for number in range(len(x)):
        joined, truth = join(x, labels, number)
        of_truth = (joined * truth).sum(0)
        total, count = total - ((1 - of_truth) ** gamma * of_truth.log()).sum(), count + of_truth.numel()
    return total / count


def dice(x: torch.Tensor, labels: torch.Tensor, background: bool, smooth: float = 1.0) -> torch.Tensor:
    losses = []
    for number in range(len(x)):
        p, t = (each[0 if background else 1 :] for each in join(x, labels, number))
        losses.append((1 - (2 * (p * t).sum(1) + smooth) / (p.sum(1) + t.sum(1) + smooth)).mean())
    return torch.stack(losses).mean()


def exclusion(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    losses = []
    for number, absent in enumerate(ABSENT):
        known, marked = labels[number] != MISSING, (labels[number] > 0).to(x.dtype)
        p = [x[number].softmax(0)[1 + n] * known for n in absent]
        if p:
            losses.append(torch.stack([2 * (q * marked).sum() / (q.sum() + marked.sum() + 1) for q in p]).mean())
    return torch.stack(losses).mean()


REFERENCES = [
    ("cross_entropy", {}, cross_entropy),
    ("focal", {"gamma": 2.0}, partial(cross_entropy, gamma=2.0)),
    ("dice", {"background": True}, partial(dice, background=True)),
    ("dice", {"background": False}, partial(dice, background=False)),
    ("tversky", {"alpha": 0.5, "beta": 0.5, "smooth": 0.5}, partial(dice, background=False)),
    ("exclusion", {}, exclusion),
]


@pytest.mark.parametrize("size", MASKS, ids=str)
@pytest.mark.parametrize(("kind", "settings", "reference"), REFERENCES)
def test_a_loss_is_that_of_joined_classes(kind, settings, reference, size) -> None:
    logits, labels = draw(size)
    check_same(logits, lambda x: loss_of(kind, x, labels, True, **settings), lambda x: reference(x, labels))


def test_a_class_weighs_as_the_background_where_it_may_be_either() -> None:
    logits, labels = draw((6, 7))
    balance = {"counts": {"background": 1, "edema": 2, "effusion": 4, "fracture": 5}}
    weights = torch.tensor([1 / 1, 1 / 2, 1 / 4, 1 / 5])
    weights = weights / weights.mean()

    def reference(x: torch.Tensor) -> torch.Tensor:
        total, weight = x.new_zeros(()), x.new_zeros(())
        for number in range(len(x)):
            own = [0, *(1 + n for n in range(K) if n not in ABSENT[number])]
            joined, truth = join(x, labels, number)
            each = (truth * weights[own].to(x.dtype)[:, None]).sum(0)
            total, weight = total - (each * (joined * truth).sum(0).log()).sum(), weight + each.sum()
        return total / weight

    check_same(logits, lambda x: loss_of("cross_entropy", x, labels, True, balance=balance), reference)


@pytest.mark.parametrize("kind", ["generalized_dice", "boundary", "cl_dice"])
def test_what_a_mask_does_not_speak_of_gets_no_gradient_of_its_own(kind: str) -> None:
    """Whichever of the joined classes is predicted, the loss is the same."""
    logits, labels = draw((6, 7), missing=0.0)
    logits, labels = logits[1:2].requires_grad_(), labels[1:2]
    swapped = logits[:, [0, 2, 1, 3]][:, [2, 1, 0, 3]][:, [1, 0, 2, 3]]  # background and effusion change places
    assert torch.equal(swapped, logits[:, [2, 1, 0, 3]])
    value, other = (loss_of(kind, each, labels, True) for each in (logits, swapped))
    assert value.item() == pytest.approx(other.item(), abs=1e-6)
    assert torch.autograd.grad(value, logits)[0].any()


def test_two_data_sets_teach_a_decoder_both_classes() -> None:
    """Pixels of two colours; one half of the samples labels the one, the other half the other. With their
    other pixels ignored, nothing says what is background."""
    generator = torch.Generator().manual_seed(2)
    colours = torch.randint(0, 3, (8, 6, 7), generator=generator)
    pixels = torch.nn.functional.one_hot(colours, 3).movedim(-1, 1).float()

    def fit(rest: list[int]) -> float:
        net = torch.nn.Conv2d(3, 3, 1)
        torch.nn.init.zeros_(net.weight)
        labels = colours.clone()
        for number, row in enumerate(labels):
            row[row != 1 + number % 2] = rest[number % 2]
        optimizer = torch.optim.Adam(net.parameters(), 0.1)
        for _ in range(150):
            optimizer.zero_grad()
            logits = net(pixels)
            kinds = ("cross_entropy", "dice", "exclusion")
            torch.stack([loss_of(kind, logits, labels, True) for kind in kinds]).sum().backward()
            optimizer.step()
        return float((net(pixels).argmax(1) == colours).float().mean())

    assert fit([join_background([1]), join_background([0])]) == 1.0
    assert fit([MISSING, MISSING]) < 0.8
