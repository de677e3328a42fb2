"""Losses of decoders against torch and MONAI, forward and gradient, with labels that are missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from medvlm.core.config import component, kinds
from medvlm.core.decoder_config import MISSING

N, K = 5, 3
SIZES: list[tuple[int, ...]] = [(), (6, 7), (3, 4, 5)]


def loss_of(kind: str, logits: torch.Tensor, labels: torch.Tensor, exclusive: bool, **settings: Any) -> torch.Tensor:
    module = component("objectives.heads", kind)
    config = module.Config(kind=kind, **settings)
    total: torch.Tensor = module.add_up(config, logits, labels, exclusive)
    return total / module.weigh(config, labels, exclusive)


def drawn(size: tuple[int, ...], exclusive: bool, missing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels; `missing` is the share of labels that are not there."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(N, K, *size, generator=generator)
    shape = (N, *size) if exclusive else (N, K, *size)
    labels = torch.randint(0, K if exclusive else 2, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < missing] = MISSING
    return logits.requires_grad_(), labels


def check_same(
    logits: torch.Tensor, ours: Callable[[torch.Tensor], torch.Tensor], theirs: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Value and gradient to 1e-6; theirs in float64."""
    mine, other = (logits.detach().clone().to(dtype).requires_grad_() for dtype in (torch.float32, torch.float64))
    value, expected = ours(mine), theirs(other)
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), abs=1e-6, rel=1e-6)
    assert mine.grad is not None and other.grad is not None
    torch.testing.assert_close(mine.grad.double(), other.grad, atol=1e-6, rtol=0)
    assert mine.grad.any()


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_cross_entropy_is_torchs_over_the_labels_that_are_there(size: tuple[int, ...], missing: float) -> None:
    logits, labels = drawn(size, True, missing)
    check_same(
        logits,
        lambda x: loss_of("cross_entropy", x, labels, True),
        lambda x: cross_entropy(x, labels, ignore_index=MISSING),
    )


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_binary_cross_entropy_is_torchs_over_the_labels_that_are_there(size: tuple[int, ...], missing: float) -> None:
    logits, labels = drawn(size, False, missing)
    known = labels != MISSING
    check_same(
        logits,
        lambda x: loss_of("binary_cross_entropy", x, labels, False),
        lambda x: binary_cross_entropy_with_logits(x[known], labels[known].double()),
    )


@pytest.mark.parametrize("smooth", [1e-5, 1.0])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("size", SIZES[1:], ids=str)
def test_dice_is_monais(size: tuple[int, ...], background: bool, smooth: float) -> None:
    from monai.losses import DiceLoss

    logits, labels = drawn(size, True)
    theirs = DiceLoss(include_background=background, to_onehot_y=True, softmax=True, smooth_nr=smooth, smooth_dr=smooth)
    check_same(
        logits,
        lambda x: loss_of("dice", x, labels, True, background=background, smooth=smooth),
        lambda x: theirs(x, labels[:, None]),
    )
    logits, labels = drawn(size, False)
    each = DiceLoss(sigmoid=True, smooth_nr=smooth, smooth_dr=smooth)
    check_same(logits, lambda x: loss_of("dice", x, labels, False, smooth=smooth), lambda x: each(x, labels.double()))


@pytest.mark.parametrize("exclusive", [True, False])
def test_dice_with_ignored_pixels_is_the_dice_of_the_other_pixels(exclusive: bool) -> None:
    """The same columns are ignored in all samples, so that what is left is an image again."""
    logits, labels = drawn((6, 7), exclusive)
    ignored = labels.clone()
    ignored[..., 4:] = MISSING
    check_same(
        logits,
        lambda x: loss_of("dice", x, ignored, exclusive),
        lambda x: loss_of("dice", x[..., :4], labels[..., :4], exclusive),
    )


def test_dice_of_a_class_that_nobody_predicts_and_nobody_marked_is_no_loss() -> None:
    logits = torch.full((1, 2, 4, 4), -20.0)
    nothing = torch.zeros(1, 2, 4, 4, dtype=torch.long)
    assert loss_of("dice", logits, nothing, False).item() == pytest.approx(0, abs=1e-6)
    assert loss_of("dice", -logits, nothing, False).item() == pytest.approx(1 - 1 / 17, abs=1e-6)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kind", kinds("objectives.heads"))
def test_a_batch_in_parts_adds_up_to_the_whole(kind: str, exclusive: bool) -> None:
    """However samples are dealt to ranks and micro-batches, and whatever is missing of them."""
    module = component("objectives.heads", kind)
    if module.refuse(exclusive, "maps"):
        pytest.skip("not for such classes")
    config = module.Config(kind=kind)
    logits, labels = drawn((6, 7), exclusive, missing=0.3)
    labels[0] = MISSING
    if not exclusive:
        labels[1, 1] = MISSING
    parts = [slice(0, 1), slice(1, 4), slice(4, 5)]
    totals = [module.add_up(config, logits[part], labels[part], exclusive) for part in parts]
    weights = [module.weigh(config, labels[part], exclusive) for part in parts]
    assert weights[0] == 0 and totals[0].item() == 0
    assert sum(weights) == module.weigh(config, labels, exclusive)
    torch.testing.assert_close(sum(totals), module.add_up(config, logits, labels, exclusive))
    sum(totals).backward()
    assert logits.grad is not None and not logits.grad[0].any() and logits.grad[1:].any()


@pytest.mark.parametrize("kind", kinds("objectives.heads"))
def test_every_loss_suits_some_decoder_and_says_what_it_does_not_suit(kind: str) -> None:
    module = component("objectives.heads", kind)
    answers = {(e, o): module.refuse(e, o) for e in (True, False) for o in ("scores", "maps")}
    assert "" in answers.values() and any(answers.values())
